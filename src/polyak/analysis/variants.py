"""Numbers of every average at a run's stops: what could have been chosen, for appendix B.

A maximum over them on the data that they are scored on is no result: too many were tried.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations

from polyak import metrics
from polyak.analysis.results import Result, bins_for, on_test, phases_of, temperature_for
from polyak.records.predictions import Predictions
from polyak.records.studies import RowRecord
from polyak.records.vocabulary import FOLLOW_UPS


def variant_results(
    row: RowRecord, predictions: Mapping[str, Predictions], variants: Mapping[str, Predictions]
) -> Iterator[Result]:
    """Accuracy, loss, calibration and churn of all variants of a row.

    Args:
        row: It names the runs.
        predictions: By id, what the arms of finished runs say: it has their hold-out's labels.
        variants: By id, what the variants of those that have any say.
    """
    for phase, runs in phases_of(row).items():
        if phase in FOLLOW_UPS:
            continue
        whole = {seed: variants[i] for seed, i in runs.items() if i in variants}
        for seed, here in whole.items():
            for arm in here.arms("test"):
                found = _scores(row, here, predictions[runs[seed]], arm)
                yield from on_test(found, row=row.label, phase=phase, arm=arm, seed=seed)
        for (first, a), (second, b) in combinations(whole.items(), 2):
            pair = f"{first}-{second}"
            for arm in a.arms("test"):
                logits = a.logits_nk("test", arm), b.logits_nk("test", arm)
                found = {"churn": metrics.churn(*logits)}
                yield from on_test(found, row=row.label, phase=phase, arm=arm, seed=pair)


def _scores(
    row: RowRecord, predictions: Predictions, run: Predictions, arm: str
) -> dict[str, float]:
    logits_nk, labels_n = predictions.logits_nk("test", arm), predictions.labels_n("test")
    bins = bins_for(len(labels_n))
    found = {
        "accuracy": metrics.accuracy(logits_nk, labels_n),
        "loss": metrics.cross_entropy(logits_nk, labels_n),
        "ece": metrics.ece(logits_nk, labels_n, bins=bins),
    }
    if "holdout" in predictions:
        temperature = temperature_for(row, predictions.logits_nk("holdout", arm), run)
        found["ece_scaled"] = metrics.ece(logits_nk.double() / temperature, labels_n, bins=bins)
    return found
