"""What a run is evaluated as when it is over: sets of weights to compare, and their files.

Arms are what a study compares; their weights are kept. Variants are all that it could have chosen,
every average at the stops with averaged and with recomputed statistics, for the paper's appendix B;
of them only the logits are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyak.averaging import save
from polyak.records.predictions import Predictions, write_predictions
from polyak.records.runs import RunFolder
from polyak.records.vocabulary import (
    AVERAGES_RULES,
    BASELINE,
    CONTROLS,
    EMA_ACC,
    EMA_ACC_BN,
    EMA_LOSS,
    EMA_LOSS_BN,
    MORE_AVERAGES,
    SGD_AT_EMA,
    SGD_STOPPED,
    SWA_BN,
    variant_name,
)
from polyak.training.config import RunConfig
from polyak.training.logits import has_statistics
from polyak.training.loop import Run
from polyak.training.prediction import predict, recompute_statistics
from polyak.training.randomness import generator
from polyak.training.run_state import State, Trained


@dataclass(frozen=True, slots=True)
class Arm:
    """A set of weights under the name that tables use."""

    name: str
    weights: State
    refresh: bool
    """Recompute BatchNorm statistics once before use."""

    origin: dict[str, Any]
    """Which weights these are, for the file's manifest."""


def arms(trained: Trained, config: RunConfig) -> Iterator[Arm]:
    """The weights that the study compares.

    sgd           SGD after the last epoch
    sgd_stopped   SGD at its own best hold-out epoch
    sgd_at_ema    SGD at the epoch of ema_acc: tells stopping from averaging
    ema_acc       the most accurate average at its epoch     ema_loss   of lowest loss
    ema_acc_bn    the longest window at the same epochs,     ema_loss_bn
                  statistics recomputed: the paper's "EMA (acc.)" and "EMA (loss)"
    swa_bn        uniform over the epoch ends of the second half, recomputed
    tail_bn, …    the run's `more_averages` after the last epoch, recomputed
    lawa_acc_bn, power_acc_bn, lawa_loss_bn, power_loss_bn
                  those that mean something at any time, at the epochs of ema_acc and ema_loss
    sgd_bn, …     each of SGD's with statistics recomputed, where the network has some: tells
                  averaging from recomputing

    Where the run selects with recomputed statistics, the chosen average stands in place of the
    longest window.
    """
    for arm in _as_trained(trained, config):
        yield arm
        if has_statistics(arm.weights):
            names = [name for name, source in CONTROLS.items() if source == arm.name]
            yield from (Arm(name, arm.weights, True, arm.origin) for name in names)


def _as_trained(trained: Trained, config: RunConfig) -> Iterator[Arm]:
    """All but SGD with recomputed statistics."""
    longest = None if config.selection == "bn_safe" else config.averaging.names[-1]
    final = {"epoch": config.epochs}
    yield Arm(BASELINE, trained.last[BASELINE], False, {"source": BASELINE, **final})
    if "swa" in trained.last:
        yield Arm(SWA_BN, trained.last["swa"], True, {"source": "swa", **final})
    for more in MORE_AVERAGES:
        if more in trained.last:
            yield Arm(f"{more}_bn", trained.last[more], True, {"source": more, **final})
    chosen: dict[str, list[tuple[str, str | None, bool]]] = {
        "sgd": [(SGD_STOPPED, BASELINE, False)],
        "acc": [
            (EMA_ACC, None, False),
            (EMA_ACC_BN, longest, True),
            (SGD_AT_EMA, BASELINE, False),
        ],
        "loss": [(EMA_LOSS, None, False), (EMA_LOSS_BN, longest, True)],
    }
    for rule, kept in trained.kept.items():
        for name, average, refresh in chosen[rule]:
            source = average or kept.stop.average
            origin = {"source": source, "epoch": kept.stop.epoch, "rule": rule}
            yield Arm(name, kept.weights[source], refresh, origin)
        for more in MORE_AVERAGES:
            if rule != "sgd" and more in kept.weights:
                at_stop = {"source": more, "epoch": kept.stop.epoch, "rule": rule}
                yield Arm(f"{more}_{rule}_bn", kept.weights[more], True, at_stop)


def write_arms(run: Run, trained: Trained, folder: RunFolder) -> None:
    """Save every arm's weights, and what it says about test, hold-out and training samples.

    This is the first time that the run's weights meet test data, monitors apart.
    """
    data = run.data
    normalise = run.images.normalise
    images = {"test": normalise(data.test_images_nchw), "train": normalise(data.train_images_nchw)}
    labels: dict[str, dict[str, Tensor]] = {
        "test": {"labels": data.test_labels_n},
        "train": {"given": data.train_given_n, "clean": data.train_clean_n},
    }
    if data.holdout_images_nchw is not None:
        assert data.holdout_given_n is not None
        assert data.holdout_clean_n is not None
        images["holdout"] = final_holdout(run, data.holdout_images_nchw)
        labels["holdout"] = {"given": data.holdout_given_n, "clean": data.holdout_clean_n}
    said: dict[str, dict[str, Tensor]] = {part: {} for part in images}
    for arm in arms(trained, run.config):
        load_arm(run, arm)
        for part, images_nchw in images.items():
            logits_nk = predict(run.model, images_nchw, precision=run.config.saved_precision)
            # Of 50,000 training samples only the verdict is needed.
            said[part][arm.name] = logits_nk.argmax(dim=1) if part == "train" else logits_nk
        save({arm.name: run.model.state_dict()}, folder.arm(arm.name), manifest=_manifest(run, arm))
    write_predictions(folder.predictions, arms=said, labels=labels)


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
    images = {"test": run.images.normalise(data.test_images_nchw)}
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


def final_holdout(run: Run, images_nchw: Tensor) -> Tensor:
    """The hold-out's images as the finished run is evaluated on them, the same at every call."""
    if "holdout-images" in run.config.paper_code:
        return run.images.augment_holdout(generator(run.config.seed, "final holdout augmentation"))
    return run.images.normalise(images_nchw)


def _manifest(run: Run, arm: Arm) -> dict[str, Any]:
    """What the arm's file says of itself, in the words of `polyak.save`."""
    averages = {
        name: (bank, bank.state_dict()["averages"][name])
        for bank in run.banks
        for name in bank.names
    }
    manifest = {"run": run.config.id, "seed": run.config.seed, **arm.origin}
    manifest["refreshed_batchnorm"] = [arm.name] if arm.refresh else []
    if arm.origin["source"] not in averages:
        return {**manifest, "weights": {arm.name: "raw"}}
    bank, kind = averages[arm.origin["source"]]
    return {
        **manifest,
        "weights": {arm.name: "averaged"},
        "averages": {arm.name: kind},
        "every": bank.every,
        "buffers": bank.buffers,
    }


def load_arm(run: Run, arm: Arm) -> None:
    """Make the run's model say what an arm says."""
    run.load_weights(arm.weights)
    if arm.refresh:
        recompute_statistics(run.model, run.images, run.config)


def _equal(arm: Arm, other: Arm) -> bool:
    if arm.weights is other.weights:
        return arm.refresh == other.refresh
    same_use = arm.refresh == other.refresh or not has_statistics(arm.weights)
    return same_use and all(torch.equal(x, other.weights[key]) for key, x in arm.weights.items())
