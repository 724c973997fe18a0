"""Numbers of every average at a run's stops: what could have been chosen, for appendix B.

A maximum over them on the data that they are scored on is no result: too many were tried.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

from polyak import metrics
from polyak.analysis.results import (
    Phase,
    Result,
    bins_for,
    on_test,
    study_results,
    temperature_for,
)
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord, StudyRecord

STATISTICS = ("averaged", "recomputed")


def variant_arm(rule: str, average: str, statistics: str) -> str:
    """A variant's name among the arms of results."""
    return f"{rule}.{average}.{statistics}"


def variant_results(out: Path, study: StudyRecord) -> list[Result]:
    """Accuracy, loss, calibration and churn of all variants of the rows that want them."""
    return [
        result
        for row in study.rows
        if row.variants
        for phase, runs in _phases(row)
        for result in _of_runs(out, row, phase, runs)
    ]


def all_results(out: Path, study: StudyRecord) -> list[Result]:
    """Every number of a study's page: its arms', and its variants' where a row wants them."""
    return [*study_results(out, study), *variant_results(out, study)]


def _phases(row: RowRecord) -> tuple[tuple[Phase, Mapping[str, str]], ...]:
    return (("search", row.chosen_search), ("refit", row.refit))


def _of_runs(out: Path, row: RowRecord, phase: Phase, runs: Mapping[str, str]) -> Iterator[Result]:
    folders = {seed: run_folder(out, run_id) for seed, run_id in runs.items()}
    # Runs from before there were variants have no such file.
    whole = {
        seed: (Predictions(folder.variants), Predictions(folder.predictions))
        for seed, folder in folders.items()
        if folder.ending == "done" and folder.variants.exists()
    }

    for seed, (said, run) in whole.items():
        for arm in said.arms("test"):
            found = _scores(row, said, run, arm)
            yield from on_test(found, row=row.label, phase=phase, arm=arm, seed=seed)
    for (first, (a, _)), (second, (b, _)) in combinations(whole.items(), 2):
        for arm in a.arms("test"):
            found = {"churn": metrics.churn(a.logits_nk("test", arm), b.logits_nk("test", arm))}
            yield from on_test(found, row=row.label, phase=phase, arm=arm, seed=f"{first}-{second}")


def _scores(row: RowRecord, said: Predictions, run: Predictions, arm: str) -> dict[str, float]:
    logits_nk, labels_n = said.logits_nk("test", arm), said.labels_n("test")
    bins = bins_for(len(labels_n))
    found = {
        "accuracy": metrics.accuracy(logits_nk, labels_n),
        "loss": metrics.cross_entropy(logits_nk, labels_n),
        "ece": metrics.ece(logits_nk, labels_n, bins=bins),
    }
    if "holdout" in said:
        temperature = temperature_for(row, said.logits_nk("holdout", arm), run)
        found["ece_scaled"] = metrics.ece(logits_nk.double() / temperature, labels_n, bins=bins)
    return found
