"""CIFAR as its makers give it: pickled dictionaries, of which no code is run."""

import io
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from polyak.data.formats.found import Found, Reading, Wanted, array_split, refuse_test_split
from polyak.data.pictures import Pixels
from polyak.errors import DataError, FileError

_TEN = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
_HUNDRED = ("train", "test", "meta")
_SIDE = 32


def _bytes(text: str, _encoding: str) -> bytes:
    """What `_codecs.encode` does for bytes that Python 3 wrote for Python 2, and nothing else."""
    return text.encode("latin1")


# All that the pickles of numpy's arrays and of bytes name, in the old and the new spelling.
_ALLOWED = {
    ("_codecs", "encode"): _bytes,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Restricted(pickle.Unpickler):
    """Makes arrays, and refuses every other name, so that a pickle cannot call anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def find(path: Path, wanted: Wanted) -> Found | None:
    """cifar-10-batches-py or cifar-100-python, by the names of their files."""
    if not path.is_dir():
        return None
    hundred = (path / "meta").is_file() and (path / "train").is_file()
    ten = any((path / name).is_file() for name in _TEN)
    if not (ten or hundred):
        return None
    refuse_test_split(wanted, f"folder '{path}' is CIFAR")
    names = _TEN if ten else _HUNDRED
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise DataError(
            f"folder '{path}' lacks {', '.join(missing)}; expected all of {', '.join(names)}. "
            "Unpack the archive again."
        )
    files = {name: path / name for name in names}
    return Found(kind="cifar pickles", files=files, read=partial(read_batches, files))


def read_batches(files: dict[str, Path]) -> Reading:
    """Training set, in the order of the batches, and test set; CIFAR-100 with its fine labels."""
    ten = "test_batch" in files
    meta = _unpickled(files["batches.meta" if ten else "meta"])
    names = meta.get("label_names" if ten else "fine_label_names")
    if not isinstance(names, list):
        raise FileError("CIFAR's meta file has no names of labels; expected them. Unpack it again.")
    parts = {"train": list(_TEN[:5]), "test": ["test_batch"]}
    if not ten:
        parts = {"train": ["train"], "test": ["test"]}
    splits = {}
    for role, batches in parts.items():
        read = [_batch(files[name]) for name in batches]
        images, labels = (np.concatenate(column) for column in zip(*read, strict=True))
        splits[role] = array_split(images, labels, role)
    return Reading(splits=splits, classes=tuple(_text(name) for name in names))


def _batch(path: Path) -> tuple[Pixels, Pixels]:
    """Images (n, h, w, c) and labels of one file, which has channels before rows."""
    content = _unpickled(path)
    labels = content.get("labels", content.get("fine_labels"))
    pixels: Any = content.get("data")
    width = 3 * _SIDE * _SIDE
    shaped = isinstance(pixels, np.ndarray) and pixels.shape == (len(pixels), width)
    if labels is None or not shaped or pixels.dtype != np.uint8:
        raise FileError(
            f"file '{path}' holds {', '.join(content) or 'nothing'}; expected data, uint8 of "
            f"{width} a row, and labels. Unpack the archive again."
        )
    images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return images, np.asarray(labels, np.int64)


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        # Written by Python 2, whose strings are bytes here.
        content = _Restricted(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise FileError(
            f"file '{path}' cannot be read as one of CIFAR's ({error}); expected a pickle of "
            "arrays and numbers and nothing else. Unpack the archive again."
        ) from error
    if not isinstance(content, dict):
        raise FileError(f"file '{path}' holds a {type(content).__name__}; expected a dictionary.")
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
