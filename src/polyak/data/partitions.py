"""From a data set to what one run trains on, selects with and is tested on.

Order: label noise on all training labels, then the limit, then the hold-out's draw.

Shape suffixes: n images of the part in question, c channels, h height, w width.
"""

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from polyak.data.cache import noise_file
from polyak.data.config import DataConfig
from polyak.data.formats.cifar_n import read_cifar_n
from polyak.data.images import DataSet, ImageSet
from polyak.data.labels import asymmetric_noise, generator_for, limited, split, symmetric_noise
from polyak.data.normalisation import IDENTITY, Normalisation, normalisation_for
from polyak.data.text.windows import BYTES, draw_files, inputs, next_bytes, windows_tested
from polyak.errors import ConfigError, DataError, few


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition:
    """Training part, hold-out and test set of one run. Images are uint8, on the CPU.

    Of text an image is a window, and labels are the next bytes at its positions, window by window.
    """

    train_images_nchw: Tensor
    """Images to train on."""

    train_given_n: Tensor
    """Labels to train with, noise included, int64."""

    train_clean_n: Tensor
    """The same labels before noise."""

    train_index_n: Tensor
    """Place of each image in the data set's whole training set."""

    holdout_images_nchw: Tensor | None
    """Images kept for selection; None if there is no hold-out."""

    holdout_given_n: Tensor | None
    """Their labels, noise included."""

    holdout_clean_n: Tensor | None
    """The same labels before noise."""

    holdout_index_n: Tensor | None
    """Place of each image in the data set's whole training set."""

    test_images_nchw: Tensor
    """Images that nothing selects with."""

    test_labels_n: Tensor
    """Their labels, which noise never touches."""

    classes: tuple[str, ...]
    """Names of the classes."""

    normalisation: Normalisation
    """Of the training part."""

    positions: int | None = None
    """Samples of a window of text, one at every byte; None: an image is a sample."""


def partition(
    dataset: DataSet,
    config: DataConfig,
    *,
    holdout: bool,
    root: str | os.PathLike[str] | None = None,
) -> Partition:
    """Put noise on the training labels, apply the limits and split the hold-out off.

    Args:
        dataset: What `load` gives.
        config: The settings; `source` and columns are not looked at.
        holdout: Whether to hold out the source's own validation split, where it has one, else
            the share `config.holdout`, as search runs do. Refits train on everything.
        root: Folder of the cache that holds the noise file's copy, instead of $POLYAK_CACHE.

    Raises:
        ConfigError, DataError: that names all faults of settings and data at once, such as a
            hold-out smaller than the number of classes or a class that nothing trains.
    """
    _check_config(dataset, config)
    if dataset.text:
        return _of_text(dataset, config, holdout=holdout)
    clean_n = dataset.train.labels_n
    given_n = _given_labels(clean_n, len(dataset.train.classes), config, root)
    kept_n = limited(clean_n, config.train_limit)
    held_n = kept_n[:0]
    if holdout and dataset.holdout_images:
        own_n = kept_n >= len(dataset.train) - dataset.holdout_images
        kept_n, held_n = kept_n[~own_n], kept_n[own_n]
    elif holdout:
        first, second = split(len(kept_n), holdout=config.holdout, seed=config.split_seed)
        kept_n, held_n = kept_n[first], kept_n[second]
    found = _label_faults(given_n[kept_n], clean_n[kept_n], dataset.train.classes)
    if holdout and len(held_n) < len(dataset.train.classes):
        found.append(
            f"the hold-out has {len(held_n)} images; expected at least "
            f"{len(dataset.train.classes)}, the number of classes"
        )
    if found:
        raise DataError(f"{'; '.join(found)}. Raise train_limit, or change holdout or noise.")
    train_images_nchw = _taken(dataset.train, kept_n)
    test_n = limited(dataset.test.labels_n, config.test_limit)
    return Partition(
        train_images_nchw=train_images_nchw,
        train_given_n=given_n[kept_n],
        train_clean_n=clean_n[kept_n],
        train_index_n=kept_n,
        holdout_images_nchw=_taken(dataset.train, held_n) if holdout else None,
        holdout_given_n=given_n[held_n] if holdout else None,
        holdout_clean_n=clean_n[held_n] if holdout else None,
        holdout_index_n=held_n if holdout else None,
        test_images_nchw=_taken(dataset.test, test_n),
        test_labels_n=dataset.test.labels_n[test_n],
        classes=dataset.train.classes,
        normalisation=normalisation_for(train_images_nchw, dataset.train.classes),
    )


def _of_text(dataset: DataSet, config: DataConfig, *, holdout: bool) -> Partition:
    """The same of windows: the hold-out is drawn by file, and is no larger than the test set."""
    train, test = dataset.train, dataset.test
    tested = windows_tested(config.test_limit, config.context)
    kept_n = limited(train.labels_n, config.train_limit)
    held_n = kept_n[:0]
    if holdout:
        draws = generator_for("hold-out files", config.split_seed)
        is_held = draw_files(train.labels_n[kept_n], share=config.holdout, generator=draws)
        kept_n, held_n = kept_n[~is_held], kept_n[is_held]
        held_n = held_n[limited(train.labels_n[held_n], tested)]
    if not len(kept_n) or (holdout and not len(held_n)):
        raise DataError(
            f"of the text {len(kept_n)} windows are left to train on and {len(held_n)} for the "
            "hold-out; expected at least one in both. Give more text, a shorter context or a "
            "larger train_limit."
        )
    kept, held = (_taken(train, index_n) for index_n in (kept_n, held_n))
    asked = _taken(test, limited(test.labels_n, tested))
    labels_n, held_labels_n = next_bytes(kept), next_bytes(held)
    return Partition(
        train_images_nchw=inputs(kept),
        train_given_n=labels_n,
        train_clean_n=labels_n,
        train_index_n=kept_n,
        holdout_images_nchw=inputs(held) if holdout else None,
        holdout_given_n=held_labels_n if holdout else None,
        holdout_clean_n=held_labels_n if holdout else None,
        holdout_index_n=held_n if holdout else None,
        test_images_nchw=inputs(asked),
        test_labels_n=next_bytes(asked),
        classes=BYTES,
        normalisation=IDENTITY,
        positions=config.context,
    )


def _given_labels(
    clean_n: Tensor, classes: int, config: DataConfig, root: str | os.PathLike[str] | None
) -> Tensor:
    noise = config.noise
    if noise.kind == "file":
        return read_cifar_n(noise_file(noise, root=root), noise.key or "", clean_n)
    if noise.kind == "none":
        return clean_n
    draw = {"symmetric": symmetric_noise, "asymmetric": asymmetric_noise}[noise.kind]
    generator = generator_for("label noise", noise.seed)
    return draw(clean_n, classes=classes, rate=noise.rate, generator=generator)


def _taken(images: ImageSet, index_n: Tensor) -> Tensor:
    # The whole set stays memory-mapped; only a part of it costs a copy.
    whole = images.places_n is None and len(index_n) == len(images)
    if whole and bool((index_n.diff() == 1).all()):
        return images.images_nchw
    return images.images_at(index_n)


def _check_config(dataset: DataSet, config: DataConfig) -> None:
    found = config.faults()
    for part in ("train", "test"):
        limit, available = getattr(config, f"{part}_limit"), len(getattr(dataset, part))
        if limit is not None and limit > available:
            found.append(f"{part}_limit is {limit}; expected at most {available}, as there are")
    if config.fingerprint not in (None, dataset.fingerprint):
        found.append(
            f"fingerprint is {config.fingerprint!r}; expected the data set's, "
            f"{dataset.fingerprint!r}"
        )
    if found:
        raise ConfigError.of("data", found)


def _label_faults(given_n: Tensor, clean_n: Tensor, classes: tuple[str, ...]) -> list[str]:
    found = []
    for what, labels_n in (("clean", clean_n), ("given", given_n)):
        counts = torch.bincount(labels_n, minlength=len(classes)).tolist()
        empty = [name for name, count in zip(classes, counts, strict=True) if not count]
        if empty:
            found.append(
                f"the training part has no image of {len(empty)} classes by its {what} labels "
                f"({few(empty)}); expected at least one of each"
            )
    return found
