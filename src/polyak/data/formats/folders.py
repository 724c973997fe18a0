"""Finding the files of a data set in a folder: parquet files, class folders, Tiny-ImageNet."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from polyak.data.formats.pictures import PictureStack, opened
from polyak.data.formats.tables import TEST_NAMES
from polyak.data.images import ImageSet
from polyak.errors import DataError, few

_PARQUET = re.compile(r"(?P<split>train|test|validation|valid|val)([-._].*)?\.parquet")
_SHARD = re.compile(r"-(?P<number>\d{5})-of-(?P<total>\d{5})\.parquet$")


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """Paths under "train" and "test", or nothing if the folder has no parquet files.

    They lie in the folder itself or in one folder below, as in the hub's repositories, and begin
    with the name of their split. Without test files, validation files are the test set.

    Raises:
        DataError: if a split or a shard is missing, or several folders below have such files.
    """
    homes = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    homes = [home for home in homes if any(_PARQUET.fullmatch(p.name) for p in home.iterdir())]
    if len(homes) > 1:
        names = ", ".join(f"'{home}'" for home in homes)
        raise DataError(f"folder '{folder}' holds several data sets; expected one of {names}.")
    if not homes:
        return {}
    splits: dict[str, list[Path]] = {}
    for path in sorted(homes[0].iterdir()):
        match = _PARQUET.fullmatch(path.name)
        if match:
            splits.setdefault(match["split"], []).append(path)
    test = next((split for split in TEST_NAMES if split in splits), None)
    if "train" not in splits or test is None:
        raise DataError(
            f"folder '{homes[0]}' has parquet files of {', '.join(splits)}; expected train and "
            f"one of {', '.join(TEST_NAMES)}."
        )
    found = {"train": splits["train"], "test": splits[test]}
    for paths in found.values():
        _check_shards(paths)
    return found


def class_folders(folder: Path) -> dict[str, Path]:
    """Folders under "train" and "test" that hold a folder for each class; or nothing."""
    test = next((name for name in TEST_NAMES if _has_folders(folder / name)), None)
    if not _has_folders(folder / "train"):
        return {}
    if test is None:
        raise DataError(
            f"folder '{folder}' has class folders in train only; expected them in one of "
            f"{', '.join(TEST_NAMES)} too."
        )
    return {"train": folder / "train", "test": folder / test}


def files_below(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Every file below the folders, named by split and path within it."""
    return {
        f"{split}/{path.relative_to(folder).as_posix()}": path
        for split, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_tiny_imagenet(folder: Path) -> bool:
    """Whether the folder is Tiny-ImageNet's own tree rather than one of class folders."""
    annotated = (folder / "val" / "val_annotations.txt").is_file()
    return annotated or next(folder.glob("train/*/images"), None) is not None


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


def decode_tiny_imagenet(files: Mapping[str, Path]) -> tuple[ImageSet, ImageSet]:
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
    stack = PictureStack()
    parts = stack.finish(
        *(
            stack.add(opened(files[name] for name in names), len(names), what=what)
            for what, names in (("train", trained), ("val", tested))
        )
    )
    train, test = (
        ImageSet(
            images_nchw=images_nchw,
            labels_n=torch.tensor([labels[name] for name in names]),
            classes=classes,
        )
        for images_nchw, names in zip(parts, (trained, tested), strict=True)
    )
    return train, test


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


def _check_shards(paths: list[Path]) -> None:
    shards = [match for path in paths if (match := _SHARD.search(path.name))]
    expected = int(shards[0]["total"]) if shards else 0
    if shards and len(paths) != expected:
        raise DataError(
            f"folder '{paths[0].parent}' has {len(paths)} of the {expected} files "
            f"'{paths[0].name}' …; expected all. Copy the others there."
        )
