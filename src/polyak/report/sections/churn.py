"""Churn taken apart, and beside an average that is as accurate as SGD."""

from collections.abc import Sequence
from statistics import fmean

from polyak.analysis.results import Phase, Result, values
from polyak.records.studies import RowRecord
from polyak.report.names import arm_name
from polyak.report.numbers import number
from polyak.report.tables.table import Measure

SPLIT = tuple(
    Measure(metric=metric, heading=heading, unit="%", scale=100, digits=1)
    for metric, heading in (
        ("both_right", "both right"),
        ("both_wrong", "both wrong"),
        ("flipped", "flipped"),
        ("differently_wrong", "differently wrong"),
        ("churn", "churn"),
    )
)
"""Churn is the sum of flipped and differently wrong."""

_AVERAGES = ("ema_acc", "ema_acc_bn", "ema_loss", "ema_loss_bn")


def matched(row: RowRecord, results: Sequence[Result]) -> list[str]:
    """A sentence that compares SGD's churn with that of the average that is most nearly as
    accurate, matched by the search's hold-out; empty where there is no refit or no second seed.
    """

    def mean(arm: str, metric: str, phase: Phase = "refit") -> float | None:
        found = values(results, row=row.label, arm=arm, metric=metric, phase=phase)
        return fmean(found.values()) if found else None

    accuracies = {arm: mean(arm, "holdout_accuracy", "search") for arm in ("sgd", *_AVERAGES)}
    known = {arm: value for arm, value in accuracies.items() if value is not None}
    if "sgd" not in known or len(known) < 2 or mean("sgd", "churn") is None:
        return []
    twin = min(known.keys() - {"sgd"}, key=lambda arm: (abs(known[arm] - known["sgd"]), arm))
    told = []
    for arm in ("sgd", twin):
        parts = [mean(arm, m) for m in ("accuracy", "churn", "flipped", "differently_wrong")]
        if None in parts:
            return []
        accuracy, churn, flipped, wrong = (number(100 * (p or 0.0), 1) for p in parts)
        told.append(
            f"{arm_name(arm)} has {accuracy} % test accuracy and {churn} % churn, of which "
            f"{flipped} flip and {wrong} are differently wrong"
        )
    held = [number(100 * known[arm], 1) for arm in ("sgd", twin)]
    return [
        f"{row.label}, matched in accuracy: of the averages {arm_name(twin)} is nearest to SGD on "
        f"the search’s hold-out ({held[1]} % and {held[0]} %). {'; '.join(told)}."
    ]
