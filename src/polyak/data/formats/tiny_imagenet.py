"""Tiny-ImageNet's own tree."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from polyak.data.formats.folders import picture_files
from polyak.data.formats.found import Found, Reading, Wanted, refuse_test_split
from polyak.errors import DataError, few

_WNID = re.compile(r"n\d{8}")


def find(path: Path, wanted: Wanted) -> Found | None:
    """The tree, by its annotations or by WordNet ids with a folder `images` in each."""
    if not path.is_dir() or not _is_tiny_imagenet(path):
        return None
    refuse_test_split(wanted, f"folder '{path}' is Tiny-ImageNet")
    files = tiny_imagenet_files(path)
    return Found(kind="tiny-imagenet", files=files, read=partial(read_tiny_imagenet, files))


def tiny_imagenet_files(folder: Path) -> dict[str, Path]:
    """The images of train and val and the annotations of val, by their path in the folder."""
    annotations = folder / "val" / "val_annotations.txt"
    paths = [*folder.glob("train/*/images/*.JPEG"), *folder.glob("val/images/*.JPEG")]
    if not annotations.is_file() or not {path.relative_to(folder).parts[0] for path in paths} >= {
        "train",
        "val",
    }:
        raise DataError(
            f"folder '{folder}' is not a complete Tiny-ImageNet; expected "
            "train/<wnid>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt."
        )
    return {path.relative_to(folder).as_posix(): path for path in [*paths, annotations]}


def read_tiny_imagenet(files: Mapping[str, Path]) -> Reading:
    """Training set, and the official validation split as test set, as in the paper."""
    trained = sorted(name for name in files if name.startswith("train/"))
    classes = tuple(sorted({name.split("/")[1] for name in trained}))
    label_of = {name: label for label, name in enumerate(classes)}
    labels = {name: label_of[name.split("/")[1]] for name in trained}
    for line in files["val/val_annotations.txt"].read_text().splitlines():
        image, wnid = line.split("\t")[:2]
        if wnid not in label_of:
            raise DataError(f"val image {image} is of class {wnid!r}; expected a class of train.")
        labels[f"val/images/{image}"] = label_of[wnid]
    tested = sorted(name for name in files if name.startswith("val/images/"))
    if {*trained, *tested} != set(labels):
        odd = {*trained, *tested} ^ set(labels)
        raise DataError(
            f"val_annotations.txt and val/images disagree on {len(odd)} images ({few(odd)}); "
            "expected one line for each image. Unpack the archive again."
        )
    return Reading(
        splits={
            role: picture_files([files[n] for n in names], [labels[n] for n in names], what)
            for role, what, names in (("train", "train", trained), ("test", "val", tested))
        },
        classes=classes,
    )


def _is_tiny_imagenet(folder: Path) -> bool:
    if (folder / "val" / "val_annotations.txt").is_file():
        return True
    return any(_WNID.fullmatch(path.parent.name) for path in folder.glob("train/*/images"))
