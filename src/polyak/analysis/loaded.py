"""A study with all that its page needs, read once: nothing after this opens a file of a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polyak import tensor_files
from polyak.analysis.reliability import pooled_reliability
from polyak.analysis.results import Result, Results, all_runs, phases_of, row_results
from polyak.analysis.variants import variant_results
from polyak.metrics import ReliabilityBin
from polyak.records.evaluations import predictions_of
from polyak.records.predictions import Predictions
from polyak.records.registration import Registration, read_registration
from polyak.records.runs import Ending, EpochRecord, MonitorRecord, RunFolder, Score, run_folder
from polyak.records.studies import RowRecord, StudyRecord, read_study
from polyak.records.timings import Timings, read_timings
from polyak.records.vocabulary import BASELINE, FOLLOW_UPS, RUN_AGAIN, Phase

Scores = Mapping[str, Score]
"""By the name of the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLog:
    """What a run wrote down, epoch by epoch."""

    epochs: Sequence[EpochRecord] = ()
    monitors: Sequence[MonitorRecord] = ()

    def part(self, name: str) -> dict[int, Scores]:
        """Scores by epoch on "holdout" or as a monitor saw them; empty where nothing did."""
        if name == "holdout":
            return {record.epoch: record.holdout for record in self.epochs if record.holdout}
        return {m.epoch: m.scores for m in self.monitors if m.monitor == name and m.scores}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCounts:
    """How many samples a run's predictions are of."""

    test: int
    holdout: int | None = None
    train: int | None = None
    wrong: int | None = None
    """Of the training samples, those whose label is wrong."""

    wrong_holdout: int | None = None
    """Of the hold-out's, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """A run, or a linear probe, as far as its folder has it."""

    id: str
    ending: Ending | None = None
    """How it ended, or None while it has not."""

    config: Mapping[str, Any] | None = None
    """What was asked for; None where nothing was begun."""

    seconds: float = 0.0
    images: int | None = None
    """Training images of an epoch; None where the run did not say."""

    log: RunLog = field(default_factory=RunLog)
    samples: SampleCounts | None = None
    """None unless its models count in the study, and it is done."""

    @property
    def done(self) -> bool:
        """Whether it ended well."""
        return self.ending == "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRow:
    """A row of a study: its record, its runs, and the numbers from them."""

    record: RowRecord
    runs: Mapping[str, LoadedRun] = field(default_factory=dict)
    """By id: of the search, refits, follow-ups, probes, in this order."""

    results: Results = field(default_factory=Results)
    """Of its arms."""

    variants: Results = field(default_factory=Results)
    """Of every average at the stops, where the row wants them."""

    reliability: Mapping[str, Sequence[ReliabilityBin]] = field(default_factory=dict)
    """By arm, of the search's models."""

    batchnorm: bool | None = None
    """Whether the network has BatchNorm; None where no finished run says."""

    @property
    def label(self) -> str:
        """Of the row."""
        return self.record.label

    @property
    def config(self) -> Mapping[str, Any] | None:
        """Configuration of one of the row's runs; None while there is none."""
        return next((run.config for run in self.runs.values() if run.config is not None), None)

    @property
    def is_text(self) -> bool:
        """Whether a sample is a position in text, and its class the next byte."""
        return str((self.config or {}).get("data", {}).get("source", "")).startswith("text:")

    @property
    def test_images(self) -> int | None:
        """Size of the test set; None while no run is finished."""
        samples = self._samples(("search", "refit"))
        return None if samples is None else samples.test

    @property
    def wrong_labels(self) -> tuple[int, int] | None:
        """Wrongly labelled training images of the refit and all of them; None where all are
        right."""
        samples = self._samples(("refit", "search"))
        if samples is None or not samples.wrong or samples.train is None:
            return None
        return samples.wrong, samples.train

    @property
    def noisy_temperature(self) -> bool:
        """Whether a temperature is fitted to wrong labels: right for them, it means nothing."""
        samples = self._samples(("search",))
        fitted_to = self.record.holdout_labels == "given"
        return samples is not None and fitted_to and bool(samples.wrong_holdout)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those that make models of the row: search, refit, and what follows the choice."""
        recorded = list(self.record.follow_ups)
        followed = sorted((p for p in FOLLOW_UPS if p in recorded), key=recorded.index)
        return ("search", "refit", *followed)

    def of(self, phase: Phase) -> dict[str, LoadedRun]:
        """Runs of a phase by seed, probes by target; the search's at the chosen learning rate."""
        ids = self.record.transfer if phase == "transfer" else phases_of(self.record).get(phase, {})
        return {key: self.runs[run_id] for key, run_id in ids.items()}

    def done(self, phase: Phase) -> dict[str, LoadedRun]:
        """Those that ended well."""
        return {key: run for key, run in self.of(phase).items() if run.done}

    def logs(self, phase: Phase) -> list[RunLog]:
        """Logs of those, in the order of the seeds."""
        return [run.log for run in self.done(phase).values()]

    def searched(self) -> dict[str, dict[str, LoadedRun]]:
        """All runs of the search, by learning rate and seed."""
        return {
            rate: {seed: self.runs[run_id] for seed, run_id in by_seed.items()}
            for rate, by_seed in self.record.search.items()
        }

    def _samples(self, phases: Iterable[Phase]) -> SampleCounts | None:
        runs = (run for phase in phases for run in self.done(phase).values())
        return next((run.samples for run in runs), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedStudy:
    """A study's record with its rows loaded, or with what it measured."""

    record: StudyRecord
    rows: tuple[LoadedRow, ...] = ()
    timings: Timings | None = None
    """What its measurement found; None where there is none that is finished."""

    registration: Registration | None = None
    """What it claimed before it ran; None where nothing was registered."""

    @property
    def is_text(self) -> bool:
        """Whether all of its rows are of text."""
        return bool(self.rows) and all(row.is_text for row in self.rows)

    @property
    def results(self) -> list[Result]:
        """Every number of its page: those of all rows' arms, then those of their variants."""
        arms = [result for row in self.rows for result in row.results]
        return arms + [result for row in self.rows for result in row.variants]


def load_study(out: Path, name: str) -> LoadedStudy:
    """Load a study from an output folder.

    Args:
        out: The output folder that holds `runs/` and the study's folder.
        name: Of the study.

    Raises:
        FileError: if there is no such study or a file of a finished run is damaged.
    """
    return load_recorded_study(out, read_study(out / name))


def load_recorded_study(out: Path, record: StudyRecord) -> LoadedStudy:
    """The same of a study whose record is known.

    Raises:
        FileError: if a file of a finished run, or its registration, is damaged.
    """
    files = _Files(out)
    return LoadedStudy(
        record=record,
        rows=tuple(_row(files, row) for row in record.rows),
        timings=None
        if record.measurement is None
        else _timings(run_folder(out, record.measurement.run)),
        registration=read_registration(out / record.name),
    )


class _Files:
    """The runs of an output folder, each file of which is read once, whoever shares it."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._runs: dict[str, LoadedRun] = {}
        self._predictions: dict[str, Predictions] = {}

    def folder(self, run_id: str) -> RunFolder:
        return run_folder(self._out, run_id)

    def run(self, run_id: str) -> LoadedRun:
        if run_id not in self._runs:
            self._runs[run_id] = _run(run_id, self.folder(run_id))
        return self._runs[run_id]

    def predictions(self, run_id: str) -> Predictions:
        if run_id not in self._predictions:
            self._predictions[run_id] = predictions_of(self._out, run_id)
        return self._predictions[run_id]


def _row(files: _Files, row: RowRecord) -> LoadedRow:
    runs = {run_id: files.run(run_id) for run_id in all_runs(row)}
    counted = [run_id for ids in phases_of(row).values() for run_id in ids.values()]
    predictions = {
        run_id: files.predictions(run_id)
        for run_id in (*counted, *row.transfer.values())
        if runs[run_id].done
    }
    runs |= {run_id: replace(runs[run_id], samples=_count(p)) for run_id, p in predictions.items()}
    searched = [
        predictions[run_id] for run_id in row.chosen_search.values() if run_id in predictions
    ]
    models = [*row.chosen_search.values(), *row.refit.values()]
    first = next((run_id for run_id in models if run_id in predictions), None)
    return LoadedRow(
        record=row,
        runs=runs,
        results=Results(row_results(row, predictions)),
        variants=Results(variant_results(row, predictions, _variants(files, row, predictions))),
        reliability=pooled_reliability(searched),
        batchnorm=None if first is None else _has_batchnorm(files.folder(first)),
    )


def _run(run_id: str, folder: RunFolder) -> LoadedRun:
    ending = folder.ending
    facts = {} if ending is None else folder.facts()
    return LoadedRun(
        id=run_id,
        ending=ending,
        config=folder.config() if (folder.path / "config.json").is_file() else None,
        seconds=facts.get("seconds", 0.0),
        images=facts.get("images"),
        log=RunLog(epochs=folder.epochs(), monitors=folder.monitors()),
    )


def _variants(
    files: _Files, row: RowRecord, predictions: Mapping[str, Predictions]
) -> dict[str, Predictions]:
    """Of the runs that have them: those from before there were variants have no such file."""
    if not row.variants:
        return {}
    paths = {run_id: files.folder(run_id).variants for run_id in predictions}
    return {run_id: Predictions(path) for run_id, path in paths.items() if path.exists()}


def _count(predictions: Predictions) -> SampleCounts:
    test = len(predictions.labels_n("test"))
    train, wrong = _labels(predictions, "train")
    held, wrong_held = _labels(predictions, "holdout")
    return SampleCounts(test=test, holdout=held, train=train, wrong=wrong, wrong_holdout=wrong_held)


def _labels(predictions: Predictions, part: str) -> tuple[int | None, int | None]:
    """Samples of a part, and how many have a wrong label; None where there is no such part."""
    if part not in predictions:
        return None, None
    given_n, clean_n = (predictions.labels_n(part, kind) for kind in ("given", "clean"))
    return len(given_n), int((given_n != clean_n).sum())


def _has_batchnorm(folder: RunFolder) -> bool | None:
    """Whether a run's last weights hold running statistics."""
    path = folder.arm(BASELINE)
    if not path.exists():
        return None
    with tensor_files.opened(path, advice=RUN_AGAIN) as file:
        names = file.keys()
    return any("running_var" in name for name in names)


def _timings(folder: RunFolder) -> Timings | None:
    return read_timings(folder.timings) if folder.ending == "done" else None
