"""Claims about hold-out curves: early, late and stopped averages (sections 3.2, 3.3)."""

import math
from collections.abc import Mapping, Sequence

from polyak.analysis.claims.claim import EQUAL, WORTH, best_average, equivalent, lead
from polyak.analysis.claims.evidence import RowEvidence, RunLog
from polyak.analysis.claims.verdicts import Finding
from polyak.analysis.curves import sliding_mean
from polyak.records.studies import StopRecord

SMOOTHING = 5
"""Epochs of the sliding mean, as in the paper's figure 1."""

EARLY = (0.05, 0.1, 0.25)
STOPS_BY = 0.75
"""Of the budget."""

EARLIER = 0.02
"""Share of the budget by which the loss epoch is to be earlier: 4 of 200 epochs."""

SPENT = 0.01
"""A learning rate has gone to 0 below this share of its peak."""


def never_behind(row: RowEvidence) -> list[Finding]:
    """The best average is not below SGD in any five epochs together."""
    values = {seed: min(_leads(log, row.averages)) for seed, log in _with_holdout(row).items()}
    if not values:
        return []
    return [
        Finding(
            what="best average − SGD, hold-out accuracy, in the worst five epochs",
            row=row.label,
            values=values,
            bound=-WORTH["accuracy"],
            refuted_at=-WORTH["accuracy"],
            resolution=row.half_an_image("holdout"),
        )
    ]


def early_lead(row: RowEvidence) -> list[Finding]:
    """The best average is ahead of SGD at 5, 10 and 25 % of the budget."""
    logs = _with_holdout(row)
    epochs = {max(1, math.ceil(share * row.budget)): share for share in EARLY}
    found = []
    for epoch, share in epochs.items():
        at = {seed: log.part("holdout")[epoch] for seed, log in logs.items()}
        if at:
            found.append(
                Finding(
                    what=f"best average − SGD, hold-out accuracy, epoch {epoch} ({share:.0%})",
                    row=row.label,
                    values={seed: lead(scores, row.averages) for seed, scores in at.items()},
                    refuted_at=WORTH["accuracy"],
                    resolution=row.half_an_image("holdout"),
                )
            )
    return found


def peaks_then_meets_sgd(row: RowEvidence) -> list[Finding]:
    """The best average falls from its peak, and ends where SGD does as the learning rate ends.

    Each seed's peak is looked for in the mean of the other seeds, so that its height is no
    maximum over that seed's noise.
    """
    logs = {seed: log for seed, log in _with_holdout(row).items() if _spent(log)}
    curves = {
        seed: sliding_mean(
            [best_average(scores, row.averages) for scores in log.part("holdout").values()],
            width=SMOOTHING,
        )
        for seed, log in logs.items()
    }
    if not curves:
        return []
    last = {seed: list(log.part("holdout").values())[-1] for seed, log in logs.items()}
    resolution = row.half_an_image("holdout")
    drop = []
    if len(curves) > 1:
        drop = [
            Finding(
                what="best average, hold-out accuracy at its peak − at the end",
                row=row.label,
                values={seed: _drop(seed, curves) for seed in curves},
                refuted_at=WORTH["accuracy"],
                resolution=resolution,
            )
        ]
    return drop + equivalent(
        "best average − SGD, hold-out accuracy, last epoch",
        row.label,
        {seed: lead(scores, row.averages) for seed, scores in last.items()},
        margin=EQUAL,
        resolution=resolution,
    )


def stops_early_on_average(row: RowEvidence) -> list[Finding]:
    """Seeds stop before three quarters of the budget, in the mean."""
    return [
        Finding(
            what=f"epoch chosen for EMA ({rule}.), share of the budget",
            row=row.label,
            values=values,
            side="below",
            bound=STOPS_BY,
            refuted_at=STOPS_BY,
            unit="share",
            resolution=0.5 / row.budget,
        )
        for rule in ("acc", "loss")
        if (values := {seed: at[rule].epoch / row.budget for seed, at in _stops(row).items()})
    ]


def stops_early_in_each(row: RowEvidence) -> list[Finding]:
    """Every seed stops before three quarters of the budget."""
    return [
        Finding(
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


def loss_first(row: RowEvidence) -> list[Finding]:
    """The lowest loss comes before the best accuracy."""
    values = {
        seed: (at["acc"].epoch - at["loss"].epoch) / row.budget for seed, at in _stops(row).items()
    }
    if not values:
        return []
    return [
        Finding(
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


def _stops(row: RowEvidence) -> dict[str, Mapping[str, StopRecord]]:
    return {seed: at for seed, at in row.stops.items() if {"acc", "loss"} <= at.keys()}


def _leads(log: RunLog, averages: Sequence[str]) -> list[float]:
    scores = log.part("holdout").values()
    return sliding_mean([lead(found, averages) for found in scores], width=SMOOTHING)


def _spent(log: RunLog) -> bool:
    rates = [record.learning_rate for record in log.epochs]
    return rates[-1] <= SPENT * max(rates)


def _drop(seed: str, curves: Mapping[str, Sequence[float]]) -> float:
    others = [curve for other, curve in curves.items() if other != seed]
    mean = [sum(values) for values in zip(*others, strict=True)]
    return curves[seed][mean.index(max(mean))] - curves[seed][-1]
