"""From what a reader found to a data set: class numbers, one size, a test set split off.

Shape suffixes: n images, c channels, h height, w width.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from polyak.data.config import EVERYTHING, Limits, SourceConfig
from polyak.data.formats.found import Reading, Split
from polyak.data.images import DataSet, ImageSet
from polyak.data.labels import limited, stratified_order
from polyak.data.pictures import PictureStack, Pixels
from polyak.errors import DataError, few

OnDecoded = Callable[[int, int], None]
"""Told how many of how many pictures are decoded."""


def decode(
    reading: Reading,
    config: SourceConfig,
    *,
    limits: Limits = EVERYTHING,
    on_decoded: OnDecoded | None = None,
) -> DataSet:
    """Decode the splits of a source.

    Args:
        reading: What a layout's reader gives.
        config: Whether to resize, and to split a test set off.
        limits: Decode no more pictures than these need.
        on_decoded: Told of progress.

    Raises:
        DataError: that names an image or label at fault.
    """
    for role, split in reading.splits.items():
        if not len(split):
            raise DataError(f"{role} has 0 images; expected at least 1.")
    labels, classes, notes = _labels(reading)
    chosen = _chosen(labels, classes, config, limits)
    stack = PictureStack(resize=config.resize, how=config.resize_how)
    report = _counting(sum(len(rows_n) for rows_n in chosen.values()), on_decoded)
    parts = {
        role: stack.add(
            split.pictures(),
            len(chosen[role]),
            place=split.place,
            chosen=chosen[role].tolist(),
            on_picture=report,
        )
        for role, split in reading.splits.items()
    }
    partly = any(len(rows_n) < len(labels[role]) for role, rows_n in chosen.items())
    if partly and stack.all_grey:
        # They have one channel if all others are grey too, which only these can say.
        return decode(reading, config, on_decoded=on_decoded)
    parts = stack.finish(parts)
    sets = {
        role: ImageSet(
            images_nchw=images_nchw,
            labels_n=labels[role],
            classes=classes,
            places_n=chosen[role] if partly else None,
        )
        for role, images_nchw in parts.items()
    }
    return assemble(sets, config, notes=[*reading.notes, *notes, *stack.notes()])


def _chosen(
    labels: Mapping[str, Tensor], classes: tuple[str, ...], config: SourceConfig, limits: Limits
) -> dict[str, Tensor]:
    """The rows of each split that have to be decoded: their numbers are assembled as images are."""
    everything = {role: torch.arange(len(labels_n)) for role, labels_n in labels.items()}
    every = torch.cat(list(labels.values()))
    strange = int(every.min()) < 0 or int(every.max()) >= len(classes)
    if limits == EVERYTHING or strange:
        # Strange labels are refused, with their numbers, when all is put together.
        return everything
    numbered, start = {}, 0
    for role, labels_n in labels.items():
        numbers_n = torch.arange(start, start + len(labels_n))
        numbered[role] = ImageSet(
            images_nchw=numbers_n[:, None, None, None], labels_n=labels_n, classes=classes
        )
        start += len(labels_n)
    whole = assemble(numbered, config)
    kept_n = torch.cat(
        [
            part.images_nchw.flatten()[limited(part.labels_n, limit)]
            for part, limit in ((whole.train, limits.train), (whole.test, limits.test))
        ]
    )
    wanted_n = torch.zeros(start, dtype=torch.bool)
    wanted_n[kept_n] = True
    by_role = torch.split(wanted_n, [len(labels_n) for labels_n in labels.values()])
    chosen = {role: x.nonzero().flatten() for role, x in zip(labels, by_role, strict=True)}
    # A split of which nothing is left has no picture to say of what size its images are.
    return chosen if all(len(rows_n) for rows_n in chosen.values()) else everything


def _counting(total: int, on_decoded: OnDecoded | None) -> Callable[[], None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if on_decoded is not None:
            on_decoded(done, total)

    return count


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
    places_n = None
    if first.places_n is not None and second.places_n is not None:
        places_n = torch.cat([first.places_n, second.places_n + len(first)])
    return ImageSet(
        images_nchw=torch.cat([first.images_nchw, second.images_nchw]),
        labels_n=torch.cat([first.labels_n, second.labels_n]),
        classes=first.classes,
        places_n=places_n,
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
