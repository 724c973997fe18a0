"""A run's folder: its files, their formats, and whether it has ended.

config.json   what was asked for        log.jsonl      one EpochRecord an epoch
DONE          how it ended              monitor.jsonl  one MonitorRecord a monitor and epoch
averages/     one file an arm           predictions.safetensors   see `predictions`
variants.safetensors   the same of every average at the stops
checkpoint/   while it has not ended    LOCK           while a process works on it
timings.json  of a measurement of overhead, see `timings`
card.json     what the weights need to be used elsewhere, see `cards`
FAILED        the error of a run that failed, until it is begun again
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from polyak.errors import FileError
from polyak.files import replacing, write_json
from polyak.records.vocabulary import RUN_AGAIN

Ending = Literal["done", "diverged"]
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Score:
    """How a set of weights does on a set of samples."""

    loss: float
    """Mean cross-entropy in nats."""

    accuracy: float
    """Fraction of samples with the right label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """A line of log.jsonl: an epoch, and what selection may see of it."""

    epoch: int
    """Epochs finished, from 1."""

    step: int
    """Optimizer steps taken."""

    learning_rate: float
    """Of the epoch's last step."""

    train: Score
    """Running mean over the epoch's batches, augmented, in train mode."""

    seconds: float
    """Since the run began."""

    holdout: Mapping[str, Score] = field(default_factory=dict)
    """Per set of weights ("sgd" and the averages' names); empty if the run keeps no hold-out."""

    holdout_bn: Mapping[str, Score] = field(default_factory=dict)
    """The same with the averages' BatchNorm statistics recomputed; empty unless the run selects
    with those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorRecord:
    """A line of monitor.jsonl: for figures only. Selection cannot be given one."""

    epoch: int
    monitor: str
    """"test", "test_bn", "holdout_bn", "train_given", "train_clean" or "train_wrong"."""

    scores: Mapping[str, Score]
    """Per set of weights. For "train_wrong" accuracy is the share of wrong labels learnt."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def predictions(self) -> Path:
        """Logits of the run's arms."""
        return self.path / "predictions.safetensors"

    @property
    def variants(self) -> Path:
        """Logits of every average at the run's stops."""
        return self.path / "variants.safetensors"

    @property
    def timings(self) -> Path:
        """What a measurement of overhead found."""
        return self.path / "timings.json"

    @property
    def card(self) -> Path:
        """Classes, image shape and normalisation."""
        return self.path / "card.json"

    @property
    def log(self) -> Path:
        """One record an epoch."""
        return self.path / "log.jsonl"

    def arm(self, name: str) -> Path:
        """Weights of one arm."""
        return self.path / "averages" / f"{name}.safetensors"

    @property
    def ending(self) -> Ending | None:
        """How the run ended, or None while it has not."""
        done = self.path / "DONE"
        if not done.exists():
            return None
        ending: Any = _json(done).get("ending")
        if ending not in get_args(Ending):
            raise FileError(
                f"ending in {done} is {ending!r}; expected one of {', '.join(get_args(Ending))}. "
                f"{RUN_AGAIN}"
            )
        found: Ending = ending
        return found

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of a run that has not ended."""
        return self.path / "checkpoint"

    def tidy(self) -> None:
        """Remove what sessions left that failed or were killed; for who holds the folder."""
        (self.path / "FAILED").unlink(missing_ok=True)
        for path in self.path.rglob(".*"):
            if path.is_file():
                path.unlink()

    def fail(self, text: str) -> None:
        """Record why a session failed; the next one begins with removing it."""
        with replacing(self.path / "FAILED") as temporary:
            temporary.write_text(text)

    @property
    def failure(self) -> str | None:
        """Why the last session failed, if it did and none was begun since."""
        try:
            return (self.path / "FAILED").read_text()
        except (OSError, ValueError):
            return None

    def finish(self, ending: Ending, **facts: Any) -> None:
        """Mark the run as ended, when all else is on disk; nothing is written after this."""
        for folder in (self.path / "averages", self.path, self.path.parent):
            sync_folder(folder)
        write_json(self.path / "DONE", {"ending": ending, **facts})

    def facts(self) -> dict[str, Any]:
        """What `finish` was told: at least the ending and the seconds."""
        return _json(self.path / "DONE")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Record what was asked for."""
        write_json(self.path / "config.json", config)

    def config(self) -> dict[str, Any]:
        """What was asked for."""
        return _json(self.path / "config.json")

    def write_epochs(self, records: list[EpochRecord]) -> None:
        """Write log.jsonl anew."""
        _write_lines(self.log, [asdict(record) for record in records])

    def epochs(self) -> list[EpochRecord]:
        """The epochs so far."""
        return list(_records(self.log, epoch_record))

    def write_monitors(self, records: list[MonitorRecord]) -> None:
        """Write monitor.jsonl anew."""
        _write_lines(self.path / "monitor.jsonl", [asdict(record) for record in records])

    def monitors(self) -> list[MonitorRecord]:
        """The monitors' records so far."""
        return list(_records(self.path / "monitor.jsonl", monitor_record))


def run_folder(out: Path, run_id: str) -> RunFolder:
    """The folder of a run inside an output folder, whether it exists or not."""
    return RunFolder(out / "runs" / run_id)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to disk: a renamed file is safe only with them."""
    if path.exists():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def epoch_record(line: dict[str, Any]) -> EpochRecord:
    """An epoch's record from its JSON values."""
    return EpochRecord(
        **{
            **line,
            "train": Score(**line["train"]),
            "holdout": _scores(line["holdout"]),
            # Runs recorded before there was such a choice have no such scores.
            "holdout_bn": _scores(line.get("holdout_bn", {})),
        }
    )


def monitor_record(line: dict[str, Any]) -> MonitorRecord:
    """A monitor's record from its JSON values."""
    return MonitorRecord(**{**line, "scores": _scores(line["scores"])})


def _scores(values: Mapping[str, Any]) -> dict[str, Score]:
    return {name: Score(**score) for name, score in values.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); expected a JSON file of a run. {RUN_AGAIN}"
        ) from error
    if not isinstance(value, dict):
        raise FileError(f"{path} holds {value!r}; expected a JSON object. {RUN_AGAIN}")
    return value


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _records(path: Path, parse: Callable[[dict[str, Any]], Record]) -> Iterator[Record]:
    if not path.exists():
        return
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            yield parse(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(
                f"line {number} of {path} is {text[:40]!r}; expected JSON of a record. {RUN_AGAIN}"
            ) from error
