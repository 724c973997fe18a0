"""What a row of a study offers as evidence: its runs' records, its numbers, its settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from polyak.analysis.results import Result
from polyak.errors import FileError
from polyak.records.predictions import Predictions
from polyak.records.runs import EpochRecord, MonitorRecord, RunFolder, Score, run_folder
from polyak.records.studies import RowRecord
from polyak.records.timings import Timings
from polyak.records.vocabulary import RUN_AGAIN, Stop

Scores = Mapping[str, Score]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLog:
    """What a finished run wrote down, epoch by epoch."""

    epochs: Sequence[EpochRecord]
    monitors: Sequence[MonitorRecord] = ()

    def part(self, name: str) -> dict[int, Scores]:
        """Scores by epoch on "holdout" or as a monitor saw them; empty where nothing did."""
        if name == "holdout":
            return {record.epoch: record.holdout for record in self.epochs if record.holdout}
        return {m.epoch: m.scores for m in self.monitors if m.monitor == name and m.scores}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEvidence:
    """A row's finished runs and the numbers from them. Runs are by seed, as text."""

    label: str
    budget: int
    """Epochs of the schedule."""

    averages: tuple[str, ...]
    """Names of the bank, from the shortest window to the longest."""

    results: Sequence[Result] = ()
    search: Mapping[str, RunLog] = field(default_factory=dict)
    """At the chosen learning rate."""

    refit: Mapping[str, RunLog] = field(default_factory=dict)
    held: Mapping[str, RunLog] = field(default_factory=dict)
    """The search again, its learning rate held from EMA (acc.)'s epoch on."""

    against: str | None = None
    """Label of the row that this one varies in one respect."""

    stops: Mapping[str, Mapping[str, Stop]] = field(default_factory=dict)
    """Seed → rule → where it stopped."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of a run of the row, flat: "optim.schedule" and so on."""

    timings: Timings | None = None
    """Of the measurement of overhead, for a row that is one."""

    batchnorm: bool | None = None
    """Whether the network has BatchNorm; None where no finished run says."""

    images: Mapping[str, int] = field(default_factory=dict)
    """Samples in "test", "holdout", by name in the test sets of probes, and, of the training
    set, in "wrong"."""

    def half_an_image(self, part: str) -> float:
        """What an accuracy on a part cannot resolve; 0 where its size is not known."""
        return 0.5 / self.images[part] if self.images.get(part) else 0.0


def row_evidence(out: Path, row: RowRecord, results: Iterable[Result]) -> RowEvidence:
    """Gather a row's evidence from its files.

    Args:
        out: The output folder that holds `runs/`.
        row: Names the runs.
        results: Numbers of the study.
    """
    search, refit = (_done(out, runs) for runs in (row.chosen_search, row.refit))
    first = next(iter((*search.values(), *refit.values())), None)
    settings = flat(first.config()) if first is not None else {}
    logs = _logs(search)
    lengths = [len(log.epochs) for log in logs.values()]
    return RowEvidence(
        label=row.label,
        budget=int(settings.get("epochs", max(lengths, default=0))),
        averages=row.averages,
        results=[result for result in results if result.row == row.label],
        search=logs,
        refit=_logs(refit),
        held=_logs(_done(out, row.follow_ups.get("held", {}))),
        against=row.against,
        stops={seed: {stop.rule: stop for stop in stops} for seed, stops in row.stops.items()},
        settings=settings,
        batchnorm=None if first is None else _has_batchnorm(first),
        images=({} if first is None else _images(first)) | _probed(out, row),
    )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names.

    Example:
        >>> flat({"epochs": 2, "optim": {"lr": 0.1}})
        {'epochs': 2, 'optim.lr': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def _done(out: Path, runs: Mapping[str, str]) -> dict[str, RunFolder]:
    folders = {seed: run_folder(out, run_id) for seed, run_id in runs.items()}
    return {seed: folder for seed, folder in folders.items() if folder.ending == "done"}


def _logs(folders: Mapping[str, RunFolder]) -> dict[str, RunLog]:
    return {
        seed: RunLog(epochs=folder.epochs(), monitors=folder.monitors())
        for seed, folder in folders.items()
    }


def _has_batchnorm(folder: RunFolder) -> bool | None:
    """Whether a run's last weights hold running statistics."""
    path = folder.arm("sgd")
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
    except SafetensorError as error:
        raise FileError(
            f"{path} cannot be read ({error}); expected the weights of a finished run. {RUN_AGAIN}"
        ) from error
    return any("running_var" in name for name in names)


def _probed(out: Path, row: RowRecord) -> dict[str, int]:
    return {
        target: len(Predictions(folder.predictions).labels_n("test"))
        for target, folder in _done(out, row.transfer).items()
    }


def _images(folder: RunFolder) -> dict[str, int]:
    predictions = Predictions(folder.predictions)
    found = {"test": len(predictions.labels_n("test"))}
    if "holdout" in predictions:
        found["holdout"] = len(predictions.labels_n("holdout", "given"))
    given_n, clean_n = (predictions.labels_n("train", kind) for kind in ("given", "clean"))
    found["wrong"] = int((given_n != clean_n).sum())
    return found
