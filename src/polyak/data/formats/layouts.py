"""Every layout in which data may lie, in the order in which they are looked for."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from polyak.data.formats import (
    cifar_batches,
    folders,
    idx,
    npz,
    table_files,
    tar_shards,
    tiny_imagenet,
)
from polyak.data.formats.found import OWN_FUNCTION, Found, Reading, Wanted
from polyak.data.formats.walk import LITTER, listed
from polyak.errors import DataError

Find = Callable[[Path, Wanted], Found | None]
"""Looks at a path: None if it holds something else, a DataError if it holds this and not whole."""

LAYOUTS: Mapping[str, Find] = {
    "IDX files (as of MNIST)": idx.find,
    "CIFAR's pickles (cifar-10-batches-py, cifar-100-python)": cifar_batches.find,
    "a folder of save_to_disk": table_files.find_saved,
    "parquet files (train-*.parquet, test-*.parquet)": table_files.find_parquet,
    "Tiny-ImageNet's tree": tiny_imagenet.find,
    "class folders (train/<class>/ and test/<class>/, or <class>/)": folders.find,
    "an .npz file (as of MedMNIST)": npz.find,
    "tar files in webdataset's form": tar_shards.find,
    "tables (.csv, .tsv, .jsonl, .parquet) of paths or pixels and labels": table_files.find_text,
}
"""A new layout is a line here and a file with its `find`."""

_ARCHIVES = (".zip", ".7z", ".rar", ".tar.bz2", ".tar.xz", ".gz")


def find_layout(path: Path, wanted: Wanted) -> Found:
    """What a folder or file holds.

    Raises:
        DataError: if it holds nothing that is known, or something incomplete.
    """
    for find in LAYOUTS.values():
        found = find(path, wanted)
        if found is not None:
            return _with_others(found, path) if find in _BESIDE else found
    raise DataError(_nothing(path))


_BESIDE = (idx.find, table_files.find_parquet)
"""Layouts that always came before class folders, which may lie beside them."""


def _with_others(found: Found, path: Path) -> Found:
    """The same, with a note of class folders that are not read."""
    others = folders.splits_in(path) if path.is_dir() else []
    if not others:
        return found

    def read() -> Reading:
        reading = found.read()
        notes = [f"left out: class folders in '{name}', beside the files" for name in others]
        return replace(reading, notes=[*reading.notes, *notes])

    return replace(found, read=read)


def _nothing(path: Path) -> str:
    """What to say of a place that no layout fits."""
    if path.is_file():
        unpack = " Unpack it first." if path.name.lower().endswith(_ARCHIVES) else ""
        return (
            f"source is '{path}', a file; expected a folder, a .parquet, .csv, .npz or .tar file, "
            f"or file.py:load.{unpack} {OWN_FUNCTION}"
        )
    known = "parquet files" + "".join(
        f", {name}" for name in LAYOUTS if not name.startswith("parquet")
    )
    return f"folder '{path}' holds no data set; expected {known}.{_inner(path)} {OWN_FUNCTION}"


def _inner(path: Path) -> str:
    """A folder below that is a data set, where an archive had one more level."""
    folders = [p for p in listed(path) if p.is_dir() and p.name.lower() not in LITTER]
    for folder in folders:
        for find in LAYOUTS.values():
            try:
                fits = find(folder, Wanted()) is not None
            except DataError:
                fits = True
            if fits:
                return f" But '{folder}' holds one: give that as the source."
    return ""
