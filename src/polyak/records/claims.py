"""Claims that a study declares, as its file, its records and its registration have them.

Nothing is judged here, and no number is looked up: `analysis.claims` does both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from polyak.records.vocabulary import Phase

Metric = Literal[
    "accuracy",
    "loss",
    "brier",
    "ece",
    "ece_scaled",
    "loss_scaled",
    "churn",
    "js",
    "memorised",
    "holdout_accuracy",
    "epoch",
]
"""Those of results.parquet, and "epoch": where an arm was stopped, as a share of the run."""

Expected = Literal["above", "below", "within"]
"""Where the mean is expected: on one side of the bound, or no further from 0 than it."""

Unit = Literal["points", "%", "nats", "score", "share"]
"""Percentage points of a difference, percent of a number alone; nats; Brier scores; shares of the
run."""

BEST_OF_SGD = "best of sgd"
"""Every arm of SGD that all seeds have, so the best: none is chosen."""
BEST_AVERAGE = "best average"
"""The average of the bank that is best in the other seeds, at that epoch."""
SHORTEST_AVERAGE = "shortest average"
LONGEST_AVERAGE = "longest average"
OF_THE_BANK = (BEST_AVERAGE, SHORTEST_AVERAGE, LONGEST_AVERAGE)

OF_PAIRS = ("churn", "js")
"""Metrics about pairs of runs."""
WITH_TEMPERATURE = ("ece_scaled", "loss_scaled")
OF_EPOCHS = ("accuracy", "loss")
"""Metrics that logs have of every epoch."""

WORTH = {
    "accuracy": 0.002,
    "loss": 0.01,
    "churn": 0.002,
    "js": 0.001,
    "ece": 0.002,
    "brier": 0.002,
    "memorised": 0.05,
    "epoch": 0.02,
}
"""Smallest effects of interest: half the smallest gain in accuracy that the paper reports, what
other metrics are printed to, 5 points of memorised labels, 2 % of the run."""

SCALES: dict[Unit, float] = {"points": 0.01, "%": 0.01, "nats": 1.0, "score": 1.0, "share": 1.0}
"""What one of a unit is in the numbers of records."""

_UNITS: dict[str, Unit] = {"loss": "nats", "js": "nats", "brier": "score", "epoch": "share"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One number a seed, and where its mean over seeds is expected: a hypothesis without figures.

    The number is a metric of an arm, or that of the arm minus that of another.
    """

    row: str
    """Label of the study's row."""

    metric: Metric
    arm: str
    """An arm, such as "ema_acc_bn". With `at`: "sgd", an average of the bank, or "best average",
    "shortest average", "longest average"."""

    against: str | None = None
    """Another such name, or "best of sgd". None: the number of `arm` alone."""

    side: Expected
    bound: float
    """In `unit`. Of "within" half the width."""

    unit: Unit
    refuted_at: float | None = None
    """In `unit`: refuted where the mean is shown not to reach it. None: the bound itself, or,
    beyond a bound of 0, the smallest effect of interest of the metric."""

    every_seed: bool = False
    """About each seed, not the mean."""

    phase: Phase = "refit"
    target: str = "test"
    """What models are tested on; the name of a probe's data in phase transfer."""

    at: float | None = None
    """Share of the run, in (0, 1], at which a curve is read."""

    until: float | None = None
    """With `at`: the mean from there to this share."""

    part: str = "holdout"
    """With `at`: the hold-out, or a monitor of the row."""

    against_row: str | None = None
    """Row of the other number; None: the same."""

    against_phase: Phase | None = None
    against_part: str | None = None

    @property
    def kind(self) -> str:
        """The metric, whether a temperature was fitted or not and on whatever it was measured."""
        return self.metric.removesuffix("_scaled").removeprefix("holdout_")

    @property
    def natural_unit(self) -> Unit:
        """The unit in which a bound is to be given."""
        return _UNITS.get(self.kind, "%" if self.against is None else "points")

    @property
    def rows(self) -> tuple[str, ...]:
        """Labels of the rows whose runs it is about."""
        return tuple(dict.fromkeys((self.row, self.against_row or self.row)))

    def settled(self) -> "Comparison":
        """The comparison with the place where it is refuted."""
        if self.refuted_at is not None or self.side == "within":
            return self
        worth = WORTH[self.kind] / SCALES[self.unit] if self.bound == 0 else 0.0
        beyond = worth if self.side == "above" else -worth
        return replace(self, refuted_at=self.bound + beyond)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A sentence that a study's runs can bear out or refute: all its comparisons have to hold."""

    id: str
    sentence: str
    comparisons: tuple[Comparison, ...]
    seeds: tuple[int, ...] = ()
    """Those that count; none given in a study's file: all that its rows run, which its records
    name."""

    def settled(self) -> "Claim":
        """The claim with its comparisons settled."""
        return replace(self, comparisons=tuple(each.settled() for each in self.comparisons))


def claims_from(records: Iterable[Mapping[str, Any]]) -> tuple[Claim, ...]:
    """Claims from a record.

    Raises:
        TypeError, KeyError, ValueError: if these are no claims.
    """
    return tuple(_claim(record) for record in records)


def _claim(record: Mapping[str, Any]) -> Claim:
    comparisons = tuple(Comparison(**each) for each in record["comparisons"])
    for each in comparisons:
        _check_words(each)
    return Claim(**{**record, "comparisons": comparisons, "seeds": tuple(record["seeds"])})


def _check_words(comparison: Comparison) -> None:
    """Refuse what a later version, or nobody, has written."""
    hints = get_type_hints(Comparison)
    for field in fields(comparison):
        value, words = getattr(comparison, field.name), get_args(hints[field.name])
        texts = [word for word in words if isinstance(word, str)]
        if texts and value not in texts:
            raise ValueError(f"{field.name} of a claim is {value!r}, which is no such word")
    bounds = (comparison.bound, comparison.refuted_at or 0.0)
    if not all(isinstance(value, int | float) for value in bounds):
        raise ValueError("the bound of a claim is no number")
