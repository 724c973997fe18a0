"""One .npz file with all splits: MedMNIST's names of arrays, or Keras's."""

import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from polyak.data.formats.found import OWN_FUNCTION, Found, Reading, Wanted, array_split, roles
from polyak.data.pictures import Pixels
from polyak.errors import DataError, FileError

NAMES = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "validation": (("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
"""Arrays of images and labels, by split."""


def find(path: Path, wanted: Wanted) -> Found | None:
    """The file itself, or the only one of its kind in a folder."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files or files[0].suffix != ".npz":
        return None
    if len(files) > 1:
        names = ", ".join(f"'{file}'" for file in files)
        raise DataError(f"folder '{path}' holds several data sets; expected one of {names}.")
    # Headers only: which splits there are decides what is read.
    used = roles(_splits(files[0]), wanted, what=f"file '{files[0]}'")
    roles_read = " ".join(f"{role}={names[0]}" for role, names in used.items())
    return Found(
        kind=f"npz {roles_read}",
        files={"npz": files[0]},
        read=partial(read_npz, files[0], used),
    )


def read_npz(path: Path, used: dict[str, tuple[str, str]]) -> Reading:
    """The arrays of the splits, by role; no code in the file is run."""
    splits = {}
    for role, (images, labels) in used.items():
        splits[role] = array_split(_array(path, images), _array(path, labels), f"'{path}' {role}")
    return Reading(splits=splits)


def _splits(path: Path) -> dict[str, tuple[str, str]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            there = set(arrays.files)
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"file '{path}' is no .npz file ({error}); copy it again.") from error
    found = {
        split: next((pair for pair in pairs if there.issuperset(pair)), None)
        for split, pairs in NAMES.items()
    }
    known = {split: pair for split, pair in found.items() if pair}
    if not known:
        raise DataError(
            f"file '{path}' holds {', '.join(sorted(there)) or 'nothing'}; expected train_images "
            f"and train_labels, or x_train and y_train, and the same of test. {OWN_FUNCTION}"
        )
    return known


def _array(path: Path, name: str) -> Pixels:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found: Pixels = arrays[name]
            return found
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(
            f"array {name} of '{path}' cannot be read ({error}); expected numbers. {OWN_FUNCTION}"
        ) from error
