"""Claims about what averages cost (section 3.1), from timings taken in turns."""

from collections.abc import Mapping, Sequence

from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.verdicts import Hypothesis
from polyak.records.timings import Timing

LITTLE = 0.05
"""Share of the time without averages that still counts as little."""


def training_costs_little(rows: Sequence[RowEvidence]) -> list[Hypothesis]:
    """The largest bank adds under 5 % to the time of the steps."""
    return [
        found
        for row in rows
        for case, plain in _timed(row)
        for found in costs_little(
            f"{_bank(case)}: time added to the steps",
            row.label,
            _by_round(case.steps_seconds),
            _by_round(plain.steps_seconds),
        )
    ]


def evaluating_costs_little(rows: Sequence[RowEvidence]) -> list[Hypothesis]:
    """The same of steps and evaluation, against steps and evaluation of SGD alone."""
    return [
        found
        for row in rows
        for case, plain in _timed(row)
        for found in costs_little(
            f"{_bank(case)}: time added to steps and evaluation",
            row.label,
            _by_round(_whole(case)),
            _by_round(_whole(plain)),
        )
    ]


def costs_little(
    what: str, row: str, with_averages: Mapping[str, float], without: Mapping[str, float]
) -> list[Hypothesis]:
    """Averages add under 5 % to a time.

    Args:
        what: Which time it is.
        row: Of the study.
        with_averages: Seconds by round.
        without: Seconds of the same rounds, taken in turns.
    """
    values = {r: with_averages[r] / without[r] - 1 for r in with_averages if r in without}
    if not values:
        return []
    return [
        Hypothesis(
            what=what,
            row=row,
            values=values,
            side="below",
            bound=LITTLE,
            refuted_at=LITTLE,
            unit="%",
        )
    ]


def _timed(row: RowEvidence) -> list[tuple[Timing, Timing]]:
    """The largest bank at the longest period, which is the paper's, and training without any."""
    if row.timings is None:
        return []
    plain = row.timings.baseline
    most = max(row.timings.cases, key=lambda case: (case.averages, case.every or 0))
    return [(most, plain)] if most.averages else []


def _bank(case: Timing) -> str:
    return f"{case.averages} averages, updated every {case.every} steps"


def _whole(case: Timing) -> list[float]:
    return [a + b for a, b in zip(case.steps_seconds, case.evaluation_seconds, strict=True)]


def _by_round(seconds: Sequence[float]) -> dict[str, float]:
    return {str(number): value for number, value in enumerate(seconds, start=1)}
