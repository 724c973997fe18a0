"""One decoded data set on disk: a folder with a manifest and four .npy files.

The manifest holds size and SHA-256 of each file, and a SHA-256 of itself.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyak import checksums
from polyak.data.images import DataSet, ImageSet

_FORMAT = 1
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_FACTS = ("holdout_images", "shared_images", "notes")
_MANIFEST = "manifest.json"


def write(folder: Path, dataset: DataSet) -> None:
    """Write both sets so that `folder` is either absent or whole, whoever else writes it."""
    train, test = dataset.train, dataset.test
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
    try:
        tensors = (train.images_nchw, train.labels_n, test.images_nchw, test.labels_n)
        files = {}
        for name, tensor in zip(_ARRAYS, tensors, strict=True):
            path = temporary / f"{name}.npy"
            with path.open("wb") as file:
                np.save(file, tensor.numpy())
                _to_disk(file)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": checksums.of_file(path)}
        manifest = {"format": _FORMAT, "classes": list(train.classes), "files": files}
        manifest |= {name: getattr(dataset, name) for name in _FACTS if getattr(dataset, name)}
        with (temporary / _MANIFEST).open("w") as file:
            json.dump({**manifest, "sha256": _digest(manifest)}, file, indent=1)
            _to_disk(file)
        # mkdtemp makes folders private; a cache may be shared.
        temporary.chmod(0o755)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        )
        for part in ("train", "test")
    )
    return DataSet(
        train=train,
        test=test,
        # Entries of earlier versions name none of these.
        holdout_images=manifest.get("holdout_images", 0),
        shared_images=manifest.get("shared_images"),
        notes=tuple(manifest.get("notes", ())),
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
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".damaged-"))
        try:
            os.rename(folder, aside / "entry")
        except FileNotFoundError:
            pass
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise OSError(f"folder '{folder}' keeps being changed by others.")


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
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


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
