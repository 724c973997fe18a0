"""Reliability diagrams over the runs of one configuration."""

from collections.abc import Iterable
from pathlib import Path

import torch

from polyak import metrics
from polyak.metrics import ReliabilityBin
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder

SAMPLES_A_BAR = 60
MOST_BARS = 15


def pooled_reliability(out: Path, run_ids: Iterable[str], arm: str) -> list[ReliabilityBin]:
    """The bars of one arm, test samples of all finished runs together.

    Runs share the test set, so more runs do not make the bars independent. Bars are 15, fewer
    where one run has under 60 samples for each.

    Returns:
        The bars, or nothing where no run is finished or none has the arm.
    """
    said = [
        Predictions(run_folder(out, run_id).predictions)
        for run_id in run_ids
        if run_folder(out, run_id).ending == "done"
    ]
    have = [predictions for predictions in said if arm in predictions.arms("test")]
    if not have:
        return []
    logits_nk = torch.cat([predictions.logits_nk("test", arm) for predictions in have])
    labels_n = torch.cat([predictions.labels_n("test") for predictions in have])
    bars = max(2, min(MOST_BARS, len(have[0].labels_n("test")) // SAMPLES_A_BAR))
    return metrics.reliability(logits_nk, labels_n, bins=bars)
