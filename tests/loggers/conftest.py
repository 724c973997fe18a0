"""A run's folder that grows epoch by epoch."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from polyak.records.runs import EpochRecord, MonitorRecord, RunFolder, Score, run_folder

RUN = "0123456789ab"


def scored(epoch: int, shift: float = 0.0) -> dict[str, Score]:
    return {
        name: Score(loss=1 / epoch + shift + i, accuracy=0.1 * epoch + 0.01 * i)
        for i, name in enumerate(("sgd", "ema_0.9"))
    }


@dataclass
class GrowingRun:
    """Writes what a run writes."""

    out: Path
    monitors: tuple[str, ...] = ("test",)
    epochs: list[EpochRecord] = field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        return run_folder(self.out, RUN)

    def begin(self) -> None:
        self.folder.write_config({"kind": "train", "seed": 3, "monitors": list(self.monitors)})

    def grow_to(self, epochs: int, *, monitored: int | None = None) -> None:
        """As a run does that has finished so many epochs, be it after a resume."""
        self.epochs = [
            EpochRecord(
                epoch=e,
                step=10 * e,
                learning_rate=0.1 / e,
                train=Score(loss=2 / e, accuracy=0.05 * e),
                seconds=float(e),
                holdout=scored(e),
            )
            for e in range(1, epochs + 1)
        ]
        self.folder.write_epochs(self.epochs)
        last = epochs if monitored is None else monitored
        records = [
            MonitorRecord(epoch=e, monitor=m, scores=scored(e, 5))
            for e in range(1, last + 1)
            for m in self.monitors
        ]
        self.folder.write_monitors(records)

    def end(self) -> None:
        self.folder.finish("done", seconds=1.0)


@pytest.fixture
def growing(tmp_path) -> GrowingRun:
    run = GrowingRun(tmp_path)
    run.begin()
    return run


@pytest.fixture
def faults():
    return []
