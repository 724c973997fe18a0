"""CIFAR-10 (JPEG q75) cut in two: five classes to learn, the other five to see what was learned."""

import os
from pathlib import Path

import torch

from polyak.data import DataConfig, DataSet, ImageSet, load, prepare

DATA = Path(os.environ.get("DATA", "."))
LEARNED = (0, 2, 4, 6, 8)
"""Airplane, bird, deer, frog, ship: animals and machines on both sides."""


def learned() -> DataSet:
    """All images of five classes."""
    return _of(LEARNED)


def others() -> DataSet:
    """All images of the other five."""
    return _of(tuple(k for k in range(10) if k not in LEARNED))


def _of(classes: tuple[int, ...]) -> DataSet:
    whole = load(prepare(DataConfig(source=str(DATA / "cifar10-jpeg"))))
    return DataSet(train=_cut(whole.train, classes), test=_cut(whole.test, classes))


def _cut(images: ImageSet, classes: tuple[int, ...]) -> ImageSet:
    chosen = torch.isin(images.labels_n, torch.tensor(classes)).nonzero().flatten()
    taken = images.take(chosen)
    place = torch.full((10,), -1)
    place[list(classes)] = torch.arange(len(classes))
    return ImageSet(
        images_nchw=taken.images_nchw,
        labels_n=place[taken.labels_n],
        classes=tuple(images.classes[k] for k in classes),
    )
