"""Every average at the stops of a run, with averaged and with recomputed statistics.

The arms are those that a study compares; these are all that it could have chosen, for the paper's
appendix B. Their logits are kept and their weights are not.
"""

from collections.abc import Iterator

import torch

from polyak.records.predictions import Predictions, write_predictions
from polyak.records.runs import RunFolder
from polyak.records.vocabulary import AVERAGES_RULES, variant_name
from polyak.training.arms import Arm, arms, final_holdout, load_arm
from polyak.training.config import RunConfig
from polyak.training.loop import Run, State, Trained
from polyak.training.prediction import predict


def variants(trained: Trained, config: RunConfig) -> Iterator[Arm]:
    """All that could be chosen: rule, average and statistics, joined by "." in the name."""
    for rule in AVERAGES_RULES:
        if rule not in trained.kept:
            continue
        kept = trained.kept[rule]
        for average in config.averaging.names:
            origin = {"source": average, "epoch": kept.stop.epoch, "rule": rule}
            for statistics, refresh in (("averaged", False), ("recomputed", True)):
                name = variant_name(rule, average, statistics)
                yield Arm(name, kept.weights[average], refresh, origin)


def write_variants(run: Run, trained: Trained, folder: RunFolder) -> None:
    """Save what every variant says about test and hold-out samples, once the arms have their file.

    Weights that are equal are evaluated once: those of an arm, and averages that warm-up still
    holds equal.
    """
    found = list(variants(trained, run.config))
    if not found or run.config.keep != "every":
        return
    data = run.data
    images = {"test": run.augmentation.ready(data.test_images_nchw)}
    if data.holdout_images_nchw is not None:
        images["holdout"] = final_holdout(run, data.holdout_images_nchw)
    known = list(arms(trained, run.config))
    predictions = Predictions(folder.predictions)
    said = {part: {a.name: predictions.logits_nk(part, a.name) for a in known} for part in images}
    for arm in found:
        twin = next((other for other in known if _equal(arm, other)), None)
        if twin is None:
            load_arm(run, arm)
            known.append(arm)
        for part, logits in said.items():
            logits[arm.name] = (
                logits[twin.name]
                if twin
                else predict(run.model, images[part], precision=run.config.saved_precision)
            )
    names = [arm.name for arm in found]
    write_predictions(
        folder.variants,
        arms={part: {name: said[part][name].clone() for name in names} for part in images},
        labels={"test": {"labels": data.test_labels_n}},
    )


def _equal(arm: Arm, other: Arm) -> bool:
    if arm.weights is other.weights:
        return arm.refresh == other.refresh
    same_use = arm.refresh == other.refresh or not _has_statistics(arm.weights)
    return same_use and all(torch.equal(x, other.weights[key]) for key, x in arm.weights.items())


def _has_statistics(weights: State) -> bool:
    return any(key.endswith("running_var") for key in weights)
