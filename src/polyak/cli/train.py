"""polyak train: one run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from polyak.cli.console import epoch_cells, title
from polyak.cli.limits import seconds_of
from polyak.data import prepare
from polyak.metrics import accuracy, cross_entropy
from polyak.models import pinned
from polyak.records.predictions import Predictions
from polyak.records.runs import EpochRecord, run_folder
from polyak.training.config import RunConfig
from polyak.training.jobs import carry_out, usable_device
from polyak.training.stopping import StopRequest


@dataclass(frozen=True)
class TrainCommand:
    """Train one network with its bank of averages, and compare them on the test set."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]

    out: Path = Path("out")
    """Output folder."""

    device: str = "cpu"
    """Where to compute: cpu, cuda."""

    time_limit: str | None = None
    """Such as 9m or 1h30m: write a checkpoint and stop (code 75) before; call again to go on."""

    def run(self) -> int:
        """Exit code: 0 done, 1 diverged."""
        self.config.check()
        usable_device(self.device)
        request = StopRequest(seconds_of(self.time_limit))
        config = _prepared(self.config)
        console = Console(stderr=True, soft_wrap=True)
        console.print(f"{title(config)}  →  {run_folder(self.out, config.id).path}")
        epochs: list[EpochRecord] = []

        def show(record: EpochRecord) -> None:
            epochs.append(record)
            console.print("  ".join(epoch_cells(epochs, config)))

        with request.by_signals():
            carry_out(config, self.out, device=self.device, on_epoch=show, stop=request)
        return _report(config, self.out)


def _prepared(config: RunConfig) -> RunConfig:
    return replace(config, data=prepare(config.data), model=pinned(config.model))


def _report(config: RunConfig, out: Path) -> int:
    folder = run_folder(out, config.id)
    if folder.ending == "diverged":
        facts = folder.facts()
        print(f"diverged in epoch {facts['epoch']}; lower --optim.lr (it is {config.optim.lr:g})")
        return 1
    predictions = Predictions(folder.predictions)
    labels_n = predictions.labels_n("test")
    print(f"{'arm':<14}{'test accuracy':>14}{'test loss':>12}")
    for arm in predictions.arms("test"):
        logits_nk = predictions.logits_nk("test", arm)
        right, loss = accuracy(logits_nk, labels_n), cross_entropy(logits_nk, labels_n)
        print(f"{arm:<14}{right:>14.2%}{loss:>12.4f}")
    print(f"run: {folder.path.resolve()}")
    return 0
