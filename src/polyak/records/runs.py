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
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from polyak.errors import FileError, one_line
from polyak.files import is_staging, replacing, sweep, write_json
from polyak.records.checked import first_difference, line_sums, read_checked, write_checked
from polyak.records.vocabulary import RUN_AGAIN

Ending = Literal["done", "diverged"]
Record = TypeVar("Record")

_RECORDS = ("log.jsonl", "monitor.jsonl")
_LINES = "lines"
"""Member of DONE: checksums of the lines of each record of many."""


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
        """Remove what sessions left that failed or were killed; for who holds the folder.

        Raises:
            FileError: if something in it is a symbolic link, which could lead anywhere.
        """
        refuse_links(self.path)
        (self.path / "FAILED").unlink(missing_ok=True)
        for path in list(self.path.rglob(".*")):
            if path.is_file():
                path.unlink()
            elif is_staging(path):
                shutil.rmtree(path)

    def sweep(self) -> None:
        """Remove what dead processes left of a run that has ended: checkpoints and temporaries."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for folder in (self.path, self.path / "averages"):
            if folder.is_dir() and not folder.is_symlink():
                sweep(folder)

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
        records = {
            name: line_sums(_text(self.path / name))
            for name in _RECORDS
            if (self.path / name).exists()
        }
        write_checked(self.path / "DONE", {"ending": ending, **facts, _LINES: records})

    def facts(self) -> dict[str, Any]:
        """What `finish` was told: at least the ending and the seconds.

        Raises:
            FileError: if it is not as it was written, or its seconds are no number.
        """
        facts = self._done()
        seconds = facts.get("seconds", 0.0)
        if not _is_number(seconds) or not math.isfinite(seconds):
            raise FileError(
                f"seconds in {self.path / 'DONE'} is {seconds!r:.40}; expected a number. "
                f"{RUN_AGAIN}"
            )
        facts.pop(_LINES, None)
        return facts

    @property
    def checked(self) -> bool:
        """Whether an ended run's records have checksums; those of before 30 November 2026 have
        not."""
        return _LINES in self._done()

    def _done(self) -> dict[str, Any]:
        return _json(self.path / "DONE")

    def _lines(self, name: str) -> list[str]:
        """The lines of a record of many, compared with their checksums once the run has ended."""
        path = self.path / name
        sums = self._done().get(_LINES, {}) if (self.path / "DONE").exists() else {}
        if not path.exists() and not sums.get(name):
            return []
        text = _text(path)
        changed = first_difference(text, sums[name]) if name in sums else None
        if changed is not None:
            raise FileError(
                f"line {changed} of {path} is not as it was written, by its checksum in DONE; "
                f"expected the record of a run that has ended. {RUN_AGAIN}"
            )
        return text.splitlines()

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
        return list(_records(self.log, self._lines(self.log.name), epoch_record))

    def write_monitors(self, records: list[MonitorRecord]) -> None:
        """Write monitor.jsonl anew."""
        _write_lines(self.path / "monitor.jsonl", [asdict(record) for record in records])

    def monitors(self) -> list[MonitorRecord]:
        """The monitors' records so far."""
        path = self.path / "monitor.jsonl"
        return list(_records(path, self._lines(path.name), monitor_record))


def run_folder(out: Path, run_id: str) -> RunFolder:
    """The folder of a run inside an output folder, whether it exists or not."""
    return RunFolder(out / "runs" / run_id)


def refuse_links(folder: Path) -> None:
    """Refuse a folder in which something would be written, or removed, elsewhere.

    Raises:
        FileError: naming the symbolic link.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            raise FileError(
                f"{path} is a symbolic link; expected a file or folder of its own. "
                "Move what it leads to in its place, or link the whole output folder."
            )


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to disk: a renamed file is safe only with them."""
    # Windows opens no folders.
    if path.exists() and os.name != "nt":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def epoch_record(line: dict[str, Any]) -> EpochRecord:
    """An epoch's record from its JSON values.

    Raises:
        KeyError, TypeError: if they are not those of one.
    """
    return EpochRecord(
        **{
            **line,
            **_numbers(line, "epoch", "step", "learning_rate", "seconds"),
            "train": _score(line["train"]),
            "holdout": _scores(line["holdout"]),
            # Runs recorded before there was such a choice have no such scores.
            "holdout_bn": _scores(line.get("holdout_bn", {})),
        }
    )


def monitor_record(line: dict[str, Any]) -> MonitorRecord:
    """A monitor's record from its JSON values.

    Raises:
        KeyError, TypeError: if they are not those of one.
    """
    return MonitorRecord(**{**line, **_numbers(line, "epoch"), "scores": _scores(line["scores"])})


def _scores(values: Mapping[str, Any]) -> dict[str, Score]:
    return {name: _score(score) for name, score in values.items()}


def _score(values: Mapping[str, Any]) -> Score:
    return Score(**{**values, **_numbers(values, "loss", "accuracy")})


def _numbers(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Members that must be numbers, as they are."""
    for name in names:
        if not _is_number(values[name]):
            raise TypeError(f"{name} is {values[name]!r:.40}")
    return {name: values[name] for name in names}


def _is_number(value: object) -> bool:
    """Whether a JSON value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_checked(path)
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} cannot be read ({one_line(error)}); expected a JSON file of a run. {RUN_AGAIN}"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} cannot be read ({one_line(error)}); expected text that a run wrote. "
            f"{RUN_AGAIN}"
        ) from error


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _records(
    path: Path, lines: list[str], parse: Callable[[dict[str, Any]], Record]
) -> Iterator[Record]:
    for number, text in enumerate(lines, start=1):
        try:
            yield parse(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FileError(
                f"line {number} of {path} is {text[:40]!r}; expected JSON of a record. {RUN_AGAIN}"
            ) from error
