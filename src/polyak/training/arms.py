"""What a run is evaluated as when it is over: sets of weights to compare, and their files.

Arms are what a study compares; their weights are kept. Variants are all that it could have chosen,
every average at the stops with averaged and with recomputed statistics, for the paper's appendix B;
of them only the logits are kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyak.averaging import load, save
from polyak.errors import FileError
from polyak.records.predictions import Predictions, write_predictions
from polyak.records.runs import RunFolder
from polyak.records.vocabulary import (
    AVERAGES_RULES,
    BASELINE,
    BESIDE_THE_BANK,
    CONTROLS,
    EMA_ACC,
    EMA_ACC_BN,
    EMA_LOSS,
    EMA_LOSS_BN,
    SGD_AT_EMA,
    SGD_STOPPED,
    SWA_BN,
    variant_name,
)
from polyak.training.config import RunConfig
from polyak.training.interruption import InterruptedRun
from polyak.training.logits import has_statistics
from polyak.training.loop import OnRest, Run
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


@dataclass(frozen=True, slots=True)
class ArmProgress:
    """Which arm of how many is evaluated next."""

    kind: str
    """"arms" or "variants"."""

    arm: str
    number: int
    """From 1."""

    total: int
    images: Mapping[str, int]
    """How many of each part: "test", "train", "holdout"."""

    inputs: str
    """What they are: "images", or "windows" of text."""

    equal_to: str | None
    """An arm before it with the same weights and statistics, whose predictions it has."""


OnArm = Callable[[ArmProgress], None]


def _ignore(_progress: ArmProgress) -> None:
    """What happens to progress where nobody asks for it."""


def _go_on() -> None:
    """What happens between two arms where nobody asks."""


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """An arm whose predictions are known."""

    arm: Arm
    statistics: State
    """Recomputed ones, which its weights do not hold."""

    said: Mapping[str, Tensor]
    """Part → logits (n, k), of training samples classes (n,)."""


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
    for more in BESIDE_THE_BANK:
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
        for more in BESIDE_THE_BANK:
            if rule != "sgd" and more in kept.weights:
                at_stop = {"source": more, "epoch": kept.stop.epoch, "rule": rule}
                yield Arm(f"{more}_{rule}_bn", kept.weights[more], True, at_stop)


def write_arms(
    run: Run,
    trained: Trained,
    folder: RunFolder,
    *,
    on_arm: OnArm = _ignore,
    on_rest: OnRest = _go_on,
) -> None:
    """Save every arm's weights, and what it says about test, hold-out and training samples.

    This is the first time that the run's weights meet test data, monitors apart. Arms of equal
    weights and statistics are evaluated once.

    Args:
        run: With its training over.
        trained: What it left.
        folder: Where to write.
        on_arm: Called before each arm.
        on_rest: Called between two arms, with SGD's last weights in the model, so that the run
            can be written down. If it raises `InterruptedRun` what was said so far is kept beside
            the checkpoints, and the next session goes on behind it.
    """
    normalise = run.images.normalise
    images = {"test": normalise(run.data.test_images_nchw)}
    # No byte of text is a wrong label, so that nothing asks for a verdict on each.
    if run.data.positions is None:
        images["train"] = normalise(run.data.train_images_nchw)
    if run.data.holdout_images_nchw is not None:
        images["holdout"] = final_holdout(run, run.data.holdout_images_nchw)
    labels = _labels(run)
    wanted = list(arms(trained, run.config))
    partial = folder.checkpoints / "arms.safetensors"
    evaluated = _evaluated_before(partial, wanted, folder)
    progress = _progress("arms", wanted, images, run.config.data.inputs)
    try:
        for number, arm in enumerate(wanted[len(evaluated) :], len(evaluated) + 1):
            twin = _twin(arm, evaluated)
            on_arm(progress(number, twin))
            evaluated.append(_evaluate(run, arm, images, twin))
            weights = run.model.state_dict()
            save({arm.name: weights}, folder.arm(arm.name), manifest=_manifest(run, arm))
            run.load_weights(trained.last[BASELINE])
            if number < len(wanted):
                on_rest()
    except InterruptedRun:
        write_predictions(partial, arms=_by_part(evaluated, images), labels=labels)
        raise
    write_predictions(folder.predictions, arms=_by_part(evaluated, images), labels=labels)


def _labels(run: Run) -> dict[str, dict[str, Tensor]]:
    """Part → kind → labels (n,), of all parts that the run has."""
    data = run.data
    found = {"test": {"labels": data.test_labels_n}}
    if data.positions is None:
        found["train"] = {"given": data.train_given_n, "clean": data.train_clean_n}
    if data.holdout_images_nchw is not None:
        assert data.holdout_given_n is not None
        assert data.holdout_clean_n is not None
        found["holdout"] = {"given": data.holdout_given_n, "clean": data.holdout_clean_n}
    return found


def _by_part(
    evaluated: Sequence[_Evaluated], parts: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    # A tensor for each name: a file takes none that share memory.
    return {part: {e.arm.name: e.said[part].clone() for e in evaluated} for part in parts}


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


def write_variants(
    run: Run, trained: Trained, folder: RunFolder, *, on_arm: OnArm = _ignore
) -> None:
    """Save what every variant says about test and hold-out samples, once the arms have their file.

    Variants equal to an arm or to each other, as averages that warm-up still holds equal, are
    evaluated once.
    """
    found = list(variants(trained, run.config))
    if not found or run.config.keep != "every":
        return
    data = run.data
    images = {"test": run.images.normalise(data.test_images_nchw)}
    if data.holdout_images_nchw is not None:
        images["holdout"] = final_holdout(run, data.holdout_images_nchw)
    predictions = Predictions(folder.predictions)
    evaluated = [
        _Evaluated(arm, {}, {part: predictions.logits_nk(part, arm.name) for part in images})
        for arm in arms(trained, run.config)
    ]
    known = len(evaluated)
    progress = _progress("variants", found, images, run.config.data.inputs)
    for number, arm in enumerate(found, 1):
        twin = _twin(arm, evaluated)
        on_arm(progress(number, twin))
        evaluated.append(_evaluate(run, arm, images, twin))
    write_predictions(
        folder.variants,
        arms=_by_part(evaluated[known:], images),
        labels={"test": {"labels": data.test_labels_n}},
    )


def _progress(
    kind: str, wanted: Sequence[Arm], images: Mapping[str, Tensor], inputs: str
) -> Callable[[int, _Evaluated | None], ArmProgress]:
    counts = {part: len(images_nchw) for part, images_nchw in images.items()}

    def at(number: int, twin: _Evaluated | None) -> ArmProgress:
        equal_to = None if twin is None else twin.arm.name
        return ArmProgress(
            kind, wanted[number - 1].name, number, len(wanted), counts, inputs, equal_to
        )

    return at


def _evaluate(
    run: Run, arm: Arm, images: Mapping[str, Tensor], twin: _Evaluated | None
) -> _Evaluated:
    """What an arm says, computed or taken from its twin; the run's model then holds the arm."""
    if twin is not None:
        run.load_weights({**arm.weights, **twin.statistics})
        return _Evaluated(arm, twin.statistics, twin.said)
    load_arm(run, arm)
    said = {}
    for part, images_nchw in images.items():
        logits_nk = predict(run.model, images_nchw, precision=run.config.saved_precision)
        # Of 50,000 training samples only the verdict is needed.
        said[part] = logits_nk.argmax(dim=1) if part == "train" else logits_nk
    buffers = {name for name, _ in run.model.named_buffers()} if arm.refresh else set()
    state = run.model.state_dict()
    return _Evaluated(arm, {key: state[key].clone() for key in buffers & state.keys()}, said)


def _evaluated_before(path: Path, wanted: Sequence[Arm], folder: RunFolder) -> list[_Evaluated]:
    """The first of the arms, as far as an interrupted session came; those in doubt are left out."""
    found: list[_Evaluated] = []
    if not path.exists():
        return found
    try:
        before = Predictions(path)
        for arm in wanted[: len(before.arms("test"))]:
            saved = load(folder.arm(arm.name))[arm.name]
            own = {key: saved[key].to(x.device) for key, x in arm.weights.items()}
            changed = {key: x for key, x in own.items() if not torch.equal(x, arm.weights[key])}
            if not arm.refresh and changed:
                break
            parts = [part for part in ("test", "train", "holdout") if part in before]
            said = {part: before.logits_nk(part, arm.name) for part in parts}
            found.append(_Evaluated(arm, changed, said))
    except (FileError, KeyError):
        # Damaged; what is missing is evaluated again.
        pass
    return found


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


def _twin(arm: Arm, evaluated: Sequence[_Evaluated]) -> _Evaluated | None:
    """One whose predictions are those of the arm, since weights and statistics are equal."""
    return next((other for other in evaluated if _equal(arm, other.arm)), None)


def _equal(arm: Arm, other: Arm) -> bool:
    if arm.weights is other.weights:
        return arm.refresh == other.refresh
    same_use = arm.refresh == other.refresh or not has_statistics(arm.weights)
    return same_use and all(torch.equal(x, other.weights[key]) for key, x in arm.weights.items())
