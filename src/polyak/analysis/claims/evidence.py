"""What a row of a study offers as evidence: its runs' records, its numbers, its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polyak.analysis.loaded import LoadedRow, LoadedRun, LoadedStudy, RunLog
from polyak.analysis.results import Results
from polyak.records.timings import Timings
from polyak.records.vocabulary import Phase, Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEvidence:
    """A row's finished runs and the numbers from them. Runs are by seed, as text."""

    label: str
    budget: int
    """Epochs of the schedule."""

    averages: tuple[str, ...]
    """Names of the bank, from the shortest window to the longest."""

    results: Results = field(default_factory=Results)
    search: Mapping[str, RunLog] = field(default_factory=dict)
    """At the chosen learning rate."""

    refit: Mapping[str, RunLog] = field(default_factory=dict)
    held: Mapping[str, RunLog] = field(default_factory=dict)
    """The search again, its learning rate held from EMA (acc.)'s epoch on."""

    annealed: Mapping[str, RunLog] = field(default_factory=dict)
    judged: Phase = "refit"
    """The phase whose models the row is about: "search" in a row without refits."""

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


def study_evidence(study: LoadedStudy) -> list[RowEvidence]:
    """What a study offers: its rows', or that of its measurement."""
    rows = [row_evidence(row) for row in study.rows]
    measured = study.record.measurement
    if measured is not None and study.timings is not None:
        timed = RowEvidence(label=measured.label, budget=0, averages=(), timings=study.timings)
        rows.append(timed)
    return rows


def row_evidence(row: LoadedRow) -> RowEvidence:
    """What a row's finished runs offer."""
    record, search, refit = row.record, row.done("search"), row.done("refit")
    first = next(iter((*search.values(), *refit.values())), None)
    settings = {} if first is None or first.config is None else flat(first.config)
    lengths = [len(run.log.epochs) for run in search.values()]
    return RowEvidence(
        label=row.label,
        budget=int(settings.get("epochs", max(lengths, default=0))),
        averages=record.averages,
        results=Results((*row.results, *row.variants)),
        search=_logs(row, "search"),
        refit=_logs(row, "refit"),
        held=_logs(row, "held"),
        annealed=_logs(row, "annealed"),
        judged=record.judged,
        against=record.against,
        stops={seed: {stop.rule: stop for stop in stops} for seed, stops in record.stops.items()},
        settings=settings,
        batchnorm=row.batchnorm,
        images=({} if first is None else _images(first)) | _probed(row),
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


def _logs(row: LoadedRow, phase: Phase) -> dict[str, RunLog]:
    return {seed: run.log for seed, run in row.done(phase).items()}


def _probed(row: LoadedRow) -> dict[str, int]:
    probes = row.done("transfer")
    return {target: run.samples.test for target, run in probes.items() if run.samples}


def _images(run: LoadedRun) -> dict[str, int]:
    if run.samples is None:
        return {}
    found = {name: getattr(run.samples, name) for name in ("test", "holdout", "wrong")}
    return {name: count for name, count in found.items() if count is not None}
