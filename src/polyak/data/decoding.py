"""From what a reader found to a data set: class numbers, one size, a test set split off.

Shape suffixes: n images, c channels, h height, w width.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from polyak.data.config import SourceConfig
from polyak.data.formats.found import Reading, Split
from polyak.data.images import DataSet, ImageSet
from polyak.data.labels import stratified_order
from polyak.data.pictures import PictureStack, Pixels
from polyak.errors import DataError, few


def decode(reading: Reading, config: SourceConfig) -> DataSet:
    """Decode all splits of a source.

    Args:
        reading: What a layout's reader gives.
        config: Whether to resize, and to split a test set off.

    Raises:
        DataError: that names an image or label at fault.
    """
    for role, split in reading.splits.items():
        if not len(split):
            raise DataError(f"{role} has 0 images; expected at least 1.")
    labels, classes, notes = _labels(reading)
    stack = PictureStack(resize=config.resize, how=config.resize_how)
    parts = {
        role: stack.add(split.pictures(), len(split), place=split.place)
        for role, split in reading.splits.items()
    }
    parts = stack.finish(parts)
    sets = {
        role: ImageSet(images_nchw=images_nchw, labels_n=labels[role], classes=classes)
        for role, images_nchw in parts.items()
    }
    return assemble(sets, config, notes=[*reading.notes, *notes, *stack.notes()])


def assemble(
    sets: Mapping[str, ImageSet], config: SourceConfig, *, notes: Sequence[str] = ()
) -> DataSet:
    """A data set of decoded splits: train, and test or holdout where they are there.

    A test set that is not there is split off: of a stratified random order of train, the first
    round(test_split·n) images. A hold-out stands at the end of the training set.
    """
    train, test, held = sets["train"], sets.get("test"), sets.get("holdout")
    notes = list(notes)
    if test is None:
        assert config.test_split is not None, "a reader without a test set asks for one"
        generator = Generator().manual_seed(config.test_split_seed)
        order = stratified_order(train.labels_n, generator=generator)
        n = round(config.test_split * len(train))
        if not 0 < n < len(train):
            raise DataError(
                f"test_split is {config.test_split!r}, {n} of {len(train)} images; expected at "
                "least one image in either part."
            )
        notes.append(f"{n} of {len(train)} images were set apart as the test set (test_split)")
        test, train = train.take(order[:n].sort().values), train.take(order[n:].sort().values)
    if held is not None:
        notes.append(f"the hold-out is the source's own validation split, {len(held)} images")
        train = _joined(train, held)
    return DataSet(
        train=train,
        test=test,
        holdout_images=0 if held is None else len(held),
        notes=tuple(notes),
    )


def images_in_both(train: ImageSet, test: ImageSet) -> int:
    """How many test images are training images too, pixel by pixel."""
    trained = {hash(image.tobytes()) for image in train.images_nchw.numpy()}
    return sum(hash(image.tobytes()) in trained for image in test.images_nchw.numpy())


def _joined(first: ImageSet, second: ImageSet) -> ImageSet:
    return ImageSet(
        images_nchw=torch.cat([first.images_nchw, second.images_nchw]),
        labels_n=torch.cat([first.labels_n, second.labels_n]),
        classes=first.classes,
    )


def _labels(reading: Reading) -> tuple[dict[str, Tensor], tuple[str, ...], list[str]]:
    """Class of each image by role, names of the classes, and which names are not used."""
    if reading.classes is None:
        numbers = np.unique(reading.splits["train"].labels)
        found = {role: _places(split, numbers, role) for role, split in reading.splits.items()}
        return found, tuple(str(number) for number in numbers), []
    found = {
        role: torch.from_numpy(split.labels.astype(np.int64))
        for role, split in reading.splits.items()
    }
    return _without_unused(found, reading.classes)


def _places(split: Split, numbers: Pixels, role: str) -> Tensor:
    strange = np.setdiff1d(split.labels, numbers)
    if strange.size:
        raise DataError(
            f"{role} holds {strange[0]}, which no row of train has; expected labels of train "
            "only. Leave those rows out."
        )
    return torch.from_numpy(np.searchsorted(numbers, split.labels))


def _without_unused(
    labels: Mapping[str, Tensor], classes: tuple[str, ...]
) -> tuple[dict[str, Tensor], tuple[str, ...], list[str]]:
    """Labels without the classes that no image has; others keep their order."""
    every = torch.cat(list(labels.values()))
    if int(every.min()) < 0 or int(every.max()) >= len(classes):
        return dict(labels), classes, []  # refused, with the numbers, when all is put together
    used = torch.bincount(every, minlength=len(classes)) > 0
    if bool(used.all()):
        return dict(labels), classes, []
    new_of_old = used.cumsum(0) - 1
    unused = [name for name, there in zip(classes, used.tolist(), strict=True) if not there]
    kept = tuple(name for name in classes if name not in unused)
    note = f"left out: {len(unused)} classes that no image has ({few(unused)})"
    return {role: new_of_old[part] for role, part in labels.items()}, kept, [note]
