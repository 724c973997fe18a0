"""Reliability diagrams over the runs of one configuration."""

from collections.abc import Sequence

import torch

from polyak import metrics
from polyak.metrics import ReliabilityBin
from polyak.records.predictions import Predictions
from polyak.records.vocabulary import BASELINE, EMA_ACC_BN, EMA_LOSS_BN

ARMS = (BASELINE, EMA_ACC_BN, EMA_LOSS_BN)
"""Those that a diagram sets beside each other."""

SAMPLES_A_BAR = 60
MOST_BARS = 15


def pooled_reliability(
    predictions: Sequence[Predictions], arms: Sequence[str] = ARMS
) -> dict[str, list[ReliabilityBin]]:
    """The bars of each arm, test samples of all runs together.

    Runs share the test set, so more runs do not make the bars independent. Bars are 15, fewer
    where one run has under 60 samples for each.

    Args:
        predictions: Of each run.
        arms: Which are wanted.

    Returns:
        By arm; without those that no run has.
    """
    by_arm = {}
    for arm in arms:
        have = [run for run in predictions if arm in run.arms("test")]
        if have:
            logits_nk = torch.cat([run.logits_nk("test", arm) for run in have])
            labels_n = torch.cat([run.labels_n("test") for run in have])
            bars = max(2, min(MOST_BARS, len(have[0].labels_n("test")) // SAMPLES_A_BAR))
            by_arm[arm] = metrics.reliability(logits_nk, labels_n, bins=bars)
    return by_arm
