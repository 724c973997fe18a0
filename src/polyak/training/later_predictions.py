"""Predictions that a run did not make itself: of other test images, of its own training images.

Weights come from the run's folder, and nothing is trained.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from polyak.data import Partition
from polyak.data.batches import augment
from polyak.errors import DataError, FileError, few
from polyak.records.predictions import Predictions, write_predictions
from polyak.records.runs import RunFolder
from polyak.records.vocabulary import Switch
from polyak.training.config import RunConfig
from polyak.training.logits import OnArm, logits_of_arms
from polyak.training.randomness import generator


def write_test_predictions(
    path: Path,
    folder: RunFolder,
    *,
    config: RunConfig,
    data: Partition,
    evaluated_on: Partition,
    arms: Sequence[str],
    device: torch.device,
    augmentation: Switch | None = None,
    on_arm: OnArm = lambda arm: None,
) -> None:
    """Write what arms say about test images, the part "test"; see `logits_of_arms`.

    What a whole file says of other arms stays in it. With statistics of another kind than the
    run's the hold-out is asked too, so that a temperature fits to them.

    Args:
        path: The file, in the format of `Predictions`.
        folder: Of the finished run.
        config: Of the run.
        data: What the run trained on; its normalisation is kept.
        evaluated_on: Whose test images these are, of the same classes and shape.
        arms: Which of its arms.
        device: Where to compute.
        augmentation: Of the images that statistics are recomputed from; None: as the run has it.
        on_arm: Called with each arm's name before its turn.

    Raises:
        DataError: for images of other classes or another shape than the run's.
        FileError: if the run kept no such arm.
    """
    check_same_task(data, evaluated_on)
    images = {"test": evaluated_on.test_images_nchw}
    labels = {"test": {"labels": evaluated_on.test_labels_n}}
    if augmentation is not None:
        images |= _holdout_images(config, data)
        labels |= _holdout_labels(data)
    known = {part: _known(path, part) for part in images}
    said = logits_of_arms(
        folder,
        images,
        config=config,
        data=data,
        arms=[arm for arm in arms if arm not in known["test"]],
        device=device,
        augmentation=augmentation,
        on_arm=on_arm,
    )
    both = {part: {**known[part], **said[part]} for part in images}
    write_predictions(path, arms=both, labels=labels)


def write_controls(
    path: Path,
    folder: RunFolder,
    *,
    config: RunConfig,
    data: Partition,
    arms: Sequence[str],
    device: torch.device,
    on_arm: OnArm = lambda arm: None,
) -> None:
    """Write what SGD with recomputed statistics says, as its run would have if it had such arms.

    Parts and labels are those of the run's own predictions. Of training images, which are asked
    only where some labels are wrong, there is the verdict.

    Args:
        path: The file, in the format of `Predictions`.
        folder: Of the finished run.
        config: Of the run.
        data: What the run trained on, with its test images.
        arms: Of `controls_of`.
        device: Where to compute.
        on_arm: Called with each arm's name before its turn.

    Raises:
        FileError: if weights that the run kept are damaged.
    """
    images = {"test": data.test_images_nchw} | _holdout_images(config, data)
    labels = {"test": {"labels": data.test_labels_n}} | _holdout_labels(data)
    if not torch.equal(data.train_given_n, data.train_clean_n):
        images["train"] = data.train_images_nchw
        labels["train"] = {"given": data.train_given_n, "clean": data.train_clean_n}
    said = logits_of_arms(
        folder, images, config=config, data=data, arms=arms, device=device, on_arm=on_arm
    )
    if "train" in said:
        said["train"] = {arm: logits_nk.argmax(dim=1) for arm, logits_nk in said["train"].items()}
    write_predictions(path, arms=said, labels=labels)


def _holdout_images(config: RunConfig, data: Partition) -> dict[str, Tensor]:
    """The hold-out as the finished run is evaluated on it; see `arms.final_holdout`."""
    if data.holdout_images_nchw is None:
        return {}
    if "holdout-images" not in config.paper_code:
        return {"holdout": data.holdout_images_nchw}
    draws = generator(config.seed, "final holdout augmentation")
    padding, flip = config.data.crop_padding, config.data.flip
    return {
        "holdout": augment(data.holdout_images_nchw, padding=padding, flip=flip, generator=draws)
    }


def _holdout_labels(data: Partition) -> dict[str, dict[str, Tensor]]:
    if data.holdout_images_nchw is None:
        return {}
    assert data.holdout_given_n is not None
    assert data.holdout_clean_n is not None
    return {"holdout": {"given": data.holdout_given_n, "clean": data.holdout_clean_n}}


def write_training_predictions(
    path: Path,
    folder: RunFolder,
    *,
    config: RunConfig,
    data: Partition,
    arms: Sequence[str],
    device: torch.device,
    on_arm: OnArm = lambda arm: None,
) -> None:
    """Write what arms say about training and hold-out images; see `logits_of_arms`.

    Parts are "train" and, where the run kept one, "holdout", whose images no weight has seen.
    Labels are "given", "clean" and "index", the place in the data set's whole training set.

    Raises:
        FileError: if the run kept no such arm.
    """
    labels = {
        "train": {
            "given": data.train_given_n,
            "clean": data.train_clean_n,
            "index": data.train_index_n,
        }
    }
    images_nchw = {"train": data.train_images_nchw}
    if data.holdout_images_nchw is not None:
        assert data.holdout_given_n is not None
        assert data.holdout_clean_n is not None
        assert data.holdout_index_n is not None
        images_nchw["holdout"] = data.holdout_images_nchw
        labels["holdout"] = {
            "given": data.holdout_given_n,
            "clean": data.holdout_clean_n,
            "index": data.holdout_index_n,
        }
    said = logits_of_arms(
        folder, images_nchw, config=config, data=data, arms=arms, device=device, on_arm=on_arm
    )
    write_predictions(path, arms=said, labels=labels)


def check_same_task(data: Partition, evaluated_on: Partition) -> None:
    """Weights that were trained on `data` can be evaluated on these images.

    Raises:
        DataError: that names both faults at once.
    """
    found = _class_faults(evaluated_on.classes, data.classes)
    shape, wanted = (tuple(x.test_images_nchw.shape[1:]) for x in (evaluated_on, data))
    if shape != wanted:
        found.append(f"images are {_sides(shape)}; expected {_sides(wanted)}, as in training")
    if found:
        raise DataError(
            f"{'; '.join(found)}. Write a function file.py:load that returns them like that, and "
            "give it as the source."
        )


def _known(path: Path, part: str) -> dict[str, Tensor]:
    """Logits that are there already; none of a damaged file."""
    try:
        there = Predictions(path) if path.exists() else None
        return {arm: there.logits_nk(part, arm) for arm in there.arms(part)} if there else {}
    except FileError:
        return {}


def _class_faults(got: tuple[str, ...], wanted: tuple[str, ...]) -> list[str]:
    if len(got) != len(wanted):
        return [
            f"the test images have {len(got)} classes ({few(got)}); expected {len(wanted)} "
            f"({few(wanted)})"
        ]
    for number, (found, expected) in enumerate(zip(got, wanted, strict=True)):
        if found != expected:
            return [f"class {number} is {found!r}; expected {expected!r}, as in training"]
    return []


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
