"""One decoded data set on disk: a folder with a manifest and four .npy files.

Two more say which images these are, where only those were decoded that limits keep.
The manifest holds size and SHA-256 of each file, and a SHA-256 of itself.
"""

import errno
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyak import checksums
from polyak.data.config import EVERYTHING, Limits
from polyak.data.images import DataSet, ImageSet
from polyak.files import naming, read_json, staging

_FORMAT = 1
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_PLACES = ("train_places", "test_places")
_FACTS = ("holdout_images", "shared_images", "notes", "text")
_MANIFEST = "manifest.json"


def write(folder: Path, dataset: DataSet) -> None:
    """Write both sets so that `folder` is either absent or whole, whoever else writes it."""
    train, test = dataset.train, dataset.test
    with naming(folder), staging(folder.parent) as place:
        # Not the private folder itself: the mask of permissions decides who shares a cache.
        temporary = place / folder.name
        temporary.mkdir()
        tensors = (train.images_nchw, train.labels_n, test.images_nchw, test.labels_n)
        places = (train.places_n, test.places_n)
        arrays = dict(zip((*_ARRAYS, *_PLACES), (*tensors, *places), strict=True))
        files = {}
        for name, tensor in arrays.items():
            if tensor is None:
                continue
            path = temporary / f"{name}.npy"
            with path.open("wb") as file:
                _write_array(file, tensor.numpy())
                _to_disk(file)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": checksums.of_file(path)}
        manifest = {"format": _FORMAT, "classes": list(train.classes), "files": files}
        manifest |= {name: getattr(dataset, name) for name in _FACTS if getattr(dataset, name)}
        with (temporary / _MANIFEST).open("w") as file:
            json.dump({**manifest, "sha256": _digest(manifest)}, file, indent=1)
            _to_disk(file)
        _publish(temporary, folder)


def place(folder: Path, fingerprint: str, limits: Limits) -> Path:
    """The folder of an entry in that of all: it has the name of its fingerprint, and limits."""
    if limits == EVERYTHING:
        return folder / fingerprint
    train, test = ("all" if x is None else str(x) for x in (limits.train, limits.test))
    return folder / f"{fingerprint}.{train}.{test}"


def find(folder: Path, fingerprint: str, limits: Limits) -> Path | None:
    """The entry that is there and has all that limits keep, the whole one first; None without."""
    for path in (folder / fingerprint, *sorted(folder.glob(f"{fingerprint}.*.*"))):
        own = limits_of(path)
        if path.is_dir() and own is not None and own.covers(limits):
            return path
    return None


def find_whole(folder: Path, fingerprint: str, limits: Limits) -> Path | None:
    """The same, if it has no faults."""
    path = find(folder, fingerprint, limits)
    return None if path is None or faults(path) else path


def limits_of(path: Path) -> Limits | None:
    """The limits that an entry's name says; None if it says something else."""
    words = path.name.split(".")[1:]
    if not words:
        return EVERYTHING
    if len(words) != 2 or not all(word == "all" or word.isdecimal() for word in words):
        return None
    return Limits(*(None if word == "all" else int(word) for word in words))


def faults(folder: Path) -> list[str]:
    """What is missing or damaged, one phrase each; an empty list if all checksums agree."""
    try:
        manifest = _manifest(folder)
    except FileNotFoundError:
        return [f"file '{folder / _MANIFEST}' is missing; expected it to be there"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"file '{folder / _MANIFEST}' is damaged ({error}); expected what was written"]
    found = []
    for name, expected in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            found.append(f"file '{path}' is missing; expected it to be there")
        elif size != expected["bytes"]:
            found.append(f"file '{path}' has {size} bytes; expected {expected['bytes']}")
        elif checksums.of_file(path) != expected["sha256"]:
            found.append(f"file '{path}' has a different checksum; expected what was written")
    return found


def read(folder: Path) -> DataSet:
    """Training and test set, memory-mapped, of a folder without faults."""
    manifest = _manifest(folder)
    classes = tuple(manifest["classes"])
    train, test = (
        ImageSet(
            images_nchw=_mapped(folder / f"{part}_images.npy"),
            labels_n=_mapped(folder / f"{part}_labels.npy"),
            classes=classes,
            places_n=_mapped(places) if places.exists() else None,
        )
        for part in ("train", "test")
        for places in [folder / f"{part}_places.npy"]
    )
    return DataSet(
        train=train,
        test=test,
        # Entries of earlier versions name none of these.
        holdout_images=manifest.get("holdout_images", 0),
        shared_images=manifest.get("shared_images"),
        notes=tuple(manifest.get("notes", ())),
        text=manifest.get("text", False),
    )


def _publish(temporary: Path, folder: Path) -> None:
    for _ in range(3):
        try:
            os.rename(temporary, folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # Another process was faster, or what is there is damaged.
        if not faults(folder):
            return
        with staging(folder.parent) as aside, suppress(FileNotFoundError):
            os.rename(folder, aside / "entry")
    raise OSError(f"folder '{folder}' keeps being changed by others.")


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = read_json(folder / _MANIFEST)
    if manifest.pop("sha256") != _digest(manifest):
        raise ValueError("its checksum is wrong")
    if manifest["format"] != _FORMAT:
        raise ValueError(f"format is {manifest['format']!r}; expected {_FORMAT}")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _mapped(path: Path) -> Tensor:
    # Copy-on-write: processes share the pages, and torch takes no read-only array in silence.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _write_array(file: BinaryIO, array: NDArray[Any]) -> None:
    """What `np.save` writes; its own way of writing has no number in the error of a full disk."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(np.ascontiguousarray(array).data)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
