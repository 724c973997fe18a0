"""Labelled images in memory or memory-mapped: what every source is decoded to.

Shape suffixes: n images, c channels, h height, w width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polyak.errors import DataError, few


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images with one label each, all of one size.

    Example:
        >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> cats = ImageSet(images_nchw=images, labels_n=torch.tensor([0, 1]), classes=("a", "b"))
        >>> len(cats.take(torch.tensor([1])))
        1
    """

    images_nchw: Tensor
    """Pixels, uint8, shape (n, c, h, w)."""

    labels_n: Tensor
    """Class of each image as an index into `classes`, int64, shape (n,)."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of their labels."""

    places_n: Tensor | None = None
    """Of a set of which only a part was decoded: for each of its images the place of its label,
    rising. None: there is an image for every label."""

    def __len__(self) -> int:
        return len(self.labels_n)

    def take(self, indices: Tensor) -> "ImageSet":
        """The images at `indices`, in that order, as a copy; those that were decoded."""
        if self.places_n is None:
            images_nchw, places_n = self.images_nchw[indices], None
        else:
            rows = torch.searchsorted(self.places_n, indices).clamp(max=len(self.places_n) - 1)
            there = self.places_n[rows] == indices
            images_nchw, places_n = self.images_nchw[rows[there]], there.nonzero().flatten()
        return replace(
            self, images_nchw=images_nchw, labels_n=self.labels_n[indices], places_n=places_n
        )

    def images_at(self, indices: Tensor) -> Tensor:
        """The images at `indices`, in that order, as a copy.

        Raises:
            DataError: if one of them was not decoded.
        """
        found = self.take(indices)
        if len(found.images_nchw) < len(indices):
            raise DataError(
                f"{len(indices) - len(found.images_nchw)} of {len(indices)} images are not "
                "decoded; expected all. Prepare the data with a larger limit, or without."
            )
        return found.images_nchw

    def faults(self, what: str, *, every_class: bool = False) -> list[str]:
        """What is wrong with this set, one phrase each; an empty list if nothing is.

        Args:
            what: How the messages call the set, such as "train".
            every_class: Whether a class without an image is a fault, as in training.
        """
        found = _tensor_faults(what, self.images_nchw, self.labels_n, self.places_n)
        # Labels that are not an int64 vector cannot be counted.
        return found or _label_faults(what, self.labels_n, self.classes, every_class)

    def check(self, what: str, *, every_class: bool = False) -> None:
        """Raise a DataError that names every fault, if there is one."""
        found = self.faults(what, every_class=every_class)
        if found:
            raise DataError("; ".join(found) + ".")


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """A training and a test set of the same classes and image shape."""

    train: ImageSet
    """All training images in the source's order; a hold-out is split off later."""

    test: ImageSet
    """Test images; nothing that selects may see them."""

    name: str = ""
    """What pages call the data set."""

    fingerprint: str | None = None
    """SHA-256 of the source, in hexadecimal; None for data that no cache knows."""

    holdout_images: int = 0
    """How many images at the end of `train` are the source's own hold-out; 0: one is drawn."""

    shared_images: int | None = None
    """How many test images are training images too, pixel by pixel; None: nobody counted."""

    notes: tuple[str, ...] = ()
    """What of the source was left out or read otherwise than one may think, a phrase each."""

    text: bool = False
    """Whether images are windows of bytes, with their file for a label; a partition makes samples
    of them (`data/text/windows.py`)."""

    def check(self) -> None:
        """Raise a DataError that names every fault of both sets, if there is one."""
        found = self.train.faults("train", every_class=not self.text) + self.test.faults("test")
        if self.train.classes != self.test.classes:
            found.append(
                f"test has the classes {few(self.test.classes)}; "
                f"expected those of train, {few(self.train.classes)}"
            )
        shapes = [tuple(part.images_nchw.shape[1:]) for part in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            found.append(f"test has images of shape {shapes[1]}; expected train's {shapes[0]}")
        if not 0 <= self.holdout_images < max(len(self.train), 1):
            found.append(
                f"holdout_images is {self.holdout_images!r}; expected 0 <= holdout_images < "
                f"{len(self.train)}, the number of training images"
            )
        if found:
            raise DataError("; ".join(found) + ".")


def _tensor_faults(
    what: str, images_nchw: object, labels_n: object, places_n: Tensor | None
) -> list[str]:
    found = []
    if not _is_tensor(images_nchw, torch.uint8, 4):
        found.append(f"{what} images are {_seen(images_nchw)}; expected torch.uint8 (n, c, h, w)")
    if not _is_tensor(labels_n, torch.int64, 1):
        found.append(f"{what} labels are {_seen(labels_n)}; expected torch.int64 (n,)")
    if isinstance(images_nchw, Tensor) and isinstance(labels_n, Tensor):
        wanted = labels_n if places_n is None else places_n
        if images_nchw.shape[:1] != wanted.shape[:1]:
            found.append(
                f"{what} has {_count(images_nchw)} images; "
                f"expected {_count(wanted)}, one for each label"
            )
        if 0 in images_nchw.shape:
            found.append(f"{what} images are {_seen(images_nchw)}; expected at least one pixel")
    return found


def _label_faults(
    what: str, labels_n: Tensor, classes: tuple[str, ...], every_class: bool
) -> list[str]:
    lowest, highest = int(labels_n.min()), int(labels_n.max())
    found = []
    if len(set(classes)) != len(classes):
        found.append(f"{what} has {len(classes)} class names; expected no name twice")
    if lowest < 0 or highest >= len(classes):
        found.append(
            f"{what} labels are {lowest}..{highest}; expected 0..{len(classes) - 1}, "
            f"as there are {len(classes)} classes"
        )
    elif every_class:
        counts = torch.bincount(labels_n, minlength=len(classes))
        empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
        if empty:
            found.append(
                f"{what} has no image of {len(empty)} classes ({few(empty)}); "
                "expected at least one of each"
            )
    return found


def _is_tensor(value: object, dtype: torch.dtype, dims: int) -> bool:
    return isinstance(value, Tensor) and value.dtype == dtype and value.ndim == dims


def _seen(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return f"a {type(value).__module__}.{type(value).__name__}"


def _count(value: Tensor) -> int:
    return value.shape[0] if value.ndim else 0
