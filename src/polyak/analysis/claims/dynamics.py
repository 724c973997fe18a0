"""Claims about hold-out curves: early, late and stopped averages (sections 3.2, 3.3)."""

import math
from collections.abc import Callable, Mapping, Sequence

from polyak.analysis.claims.claim import EQUAL, equivalent
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.extremes import (
    SMOOTHING,
    best_average,
    lead,
    never_below,
    place_in_others,
)
from polyak.analysis.claims.verdicts import Hypothesis
from polyak.analysis.curves import sliding_mean
from polyak.analysis.loaded import RunLog, Scores
from polyak.records.claims import WORTH
from polyak.records.vocabulary import Stop

EARLY = (0.05, 0.1, 0.25)
STOPS_BY = 0.75
"""Of the budget."""

EARLIER = 0.02
"""Share of the budget by which the loss epoch is to be earlier: 4 of 200 epochs."""

SPENT = 0.01
"""A learning rate has gone to 0 below this share of its peak."""

_CHOSEN = {"acc": "EMA (acc.)", "loss": "EMA (loss)"}
"""What is chosen by each rule."""


def never_behind(row: RowEvidence) -> list[Hypothesis]:
    """The best average is not below SGD in any five epochs together."""
    return never_below(
        "best average − SGD, hold-out accuracy",
        row,
        _over_epochs(lead, row, _with_holdout(row)),
        bound=-WORTH["accuracy"],
        part="holdout",
    )


def early_lead(row: RowEvidence) -> list[Hypothesis]:
    """The best average is ahead of SGD at 5, 10 and 25 % of the budget."""
    logs = _with_holdout(row)
    epochs = {max(1, math.ceil(share * row.budget)): share for share in EARLY}
    found = []
    for epoch, share in epochs.items():
        at = {seed: log.part("holdout")[epoch] for seed, log in logs.items()}
        if at:
            found.append(
                Hypothesis(
                    what=f"best average − SGD, hold-out accuracy, epoch {epoch} ({share:.0%})",
                    row=row.label,
                    values=lead(at, row.averages),
                    refuted_at=WORTH["accuracy"],
                    resolution=row.half_an_image("holdout"),
                )
            )
    return found


def peaks_then_meets_sgd(row: RowEvidence) -> list[Hypothesis]:
    """The best average falls from its peak, and ends where SGD does as the learning rate ends.

    Each seed's peak is looked for in the mean of the other seeds, so that its height is no
    maximum over that seed's noise.
    """
    logs = {seed: log for seed, log in _with_holdout(row).items() if _spent(log)}
    curves = {
        seed: sliding_mean(curve, width=SMOOTHING)
        for seed, curve in _over_epochs(best_average, row, logs).items()
    }
    if not curves:
        return []
    last = {seed: list(log.part("holdout").values())[-1] for seed, log in logs.items()}
    resolution = row.half_an_image("holdout")
    drop = []
    if len(curves) > 1:
        peaks = place_in_others(curves, max)
        drop = [
            Hypothesis(
                what="best average, hold-out accuracy at its peak − at the end",
                row=row.label,
                values={seed: x[peaks[seed]] - x[-1] for seed, x in curves.items()},
                refuted_at=WORTH["accuracy"],
                resolution=resolution,
            )
        ]
    return drop + equivalent(
        "best average − SGD, hold-out accuracy, last epoch",
        row.label,
        lead(last, row.averages),
        margin=EQUAL,
        resolution=resolution,
    )


def stops_early_on_average(row: RowEvidence) -> list[Hypothesis]:
    """Seeds stop before three quarters of the budget, in the mean."""
    return [
        Hypothesis(
            what=f"epoch chosen for {name}, share of the budget",
            row=row.label,
            values=values,
            side="below",
            bound=STOPS_BY,
            refuted_at=STOPS_BY,
            unit="share",
            resolution=0.5 / row.budget,
        )
        for rule, name in _CHOSEN.items()
        if (values := {seed: at[rule].epoch / row.budget for seed, at in _stops(row).items()})
    ]


def stops_early_in_each(row: RowEvidence) -> list[Hypothesis]:
    """Every seed stops before three quarters of the budget."""
    return [
        Hypothesis(
            what=f"{found.what}, every seed",
            row=found.row,
            values=found.values,
            side="below",
            bound=STOPS_BY,
            refuted_at=STOPS_BY,
            unit="share",
            resolution=found.resolution,
            every_seed=True,
        )
        for found in stops_early_on_average(row)
    ]


def loss_first(row: RowEvidence) -> list[Hypothesis]:
    """The lowest loss comes before the best accuracy."""
    values = {
        seed: (at["acc"].epoch - at["loss"].epoch) / row.budget for seed, at in _stops(row).items()
    }
    if not values:
        return []
    return [
        Hypothesis(
            what="accuracy epoch − loss epoch, share of the budget",
            row=row.label,
            values=values,
            refuted_at=EARLIER,
            unit="share",
            resolution=0.5 / row.budget,
        )
    ]


def _with_holdout(row: RowEvidence) -> dict[str, RunLog]:
    return {seed: log for seed, log in row.search.items() if log.part("holdout")}


def _stops(row: RowEvidence) -> dict[str, Mapping[str, Stop]]:
    return {seed: at for seed, at in row.stops.items() if {"acc", "loss"} <= at.keys()}


def _over_epochs(
    number: Callable[[Mapping[str, Scores], Sequence[str]], dict[str, float]],
    row: RowEvidence,
    logs: Mapping[str, RunLog],
) -> dict[str, list[float]]:
    """A number of all seeds at each epoch of the hold-out, as a curve a seed."""
    parts = {seed: list(log.part("holdout").values()) for seed, log in logs.items()}
    at_epochs = [dict(zip(parts, at, strict=True)) for at in zip(*parts.values(), strict=True)]
    numbers = [number(at, row.averages) for at in at_epochs]
    return {seed: [found[seed] for found in numbers] for seed in parts}


def _spent(log: RunLog) -> bool:
    rates = [record.learning_rate for record in log.epochs]
    return rates[-1] <= SPENT * max(rates)
