"""Weights in a file that says what they are: safetensors with a JSON manifest inside."""

import ctypes
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polyak.averaging.averager import Averager
from polyak.errors import FileError, few
from polyak.files import replacing

_FORMAT = 1
_SEPARATOR = "/"


class SavedWeights(dict[str, dict[str, Tensor]]):
    """State dicts by name, and in `manifest` what the file says about them."""

    def __init__(
        self, weights: Mapping[str, dict[str, Tensor]], *, manifest: Mapping[str, Any]
    ) -> None:
        super().__init__(weights)
        self.manifest = dict(manifest)


def save(
    weights: Averager | Mapping[str, Mapping[str, Tensor]],
    path: str | os.PathLike[str],
    *,
    manifest: Mapping[str, Any] | None = None,
) -> None:
    """Write every average of an averager, or state dicts by name, to one safetensors file.

    Tensors that stand under several names (tied weights) are stored once. The file is written
    beside its place and renamed, so a crash leaves the old file or the whole new one.

    Args:
        weights: An averager, or a mapping name → state dict. Names may not hold "/".
        path: The file.
        manifest: JSON values to keep in the file beside what an averager says of itself.
    """
    described = dict(manifest or {})
    if isinstance(weights, Averager):
        described = {**_describe(weights), **described}
        weights = {name: weights.tensors(name) for name in weights.names}
    stored: dict[str, Tensor] = {}
    storages: set[int] = set()
    places: dict[tuple[Any, ...], str] = {}
    index: dict[str, dict[str, str]] = {}
    for name, tensors in weights.items():
        if _SEPARATOR in name:
            raise FileError(f"the name is {name!r}; expected one without '/'. Rename it.")
        index[name] = {}
        for key, tensor in tensors.items():
            full = f"{name}{_SEPARATOR}{key}"
            index[name][key] = places.setdefault(_identity(tensor, full), full)
            if index[name][key] == full:
                # The format refuses views that overlap, and a copy of one is only its own bytes.
                storage = tensor.untyped_storage().data_ptr()
                alone = storage not in storages
                storages.add(storage)
                stored[full] = tensor.detach().contiguous() if alone else tensor.detach().clone()
    record = {
        "format": _FORMAT,
        "weights": index,
        "manifest": described,
        "crc32": {full: _checksum(tensor) for full, tensor in stored.items()},
    }
    header = json.dumps(record)
    metadata = {"polyak": header, "polyak_crc32": str(zlib.crc32(header.encode()))}
    with replacing(path) as temporary:
        save_file(stored, temporary, metadata=metadata)


def load(path: str | os.PathLike[str]) -> SavedWeights:
    """Read a file of `save`: a mapping name → state dict, with `.manifest`.

    Raises:
        FileError: if the file is damaged or not one of ours.
    """
    if not os.path.isfile(path):
        raise FileError(f"{os.fspath(path)} is no file; expected one that polyak.save wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    record = _record(path, metadata)
    if record["crc32"].keys() != tensors.keys():
        raise _damaged(path, "tensors are missing or unknown")
    altered = [key for key, x in tensors.items() if _checksum(x) != record["crc32"][key]]
    if altered:
        raise _damaged(path, f"the values of {few(altered)} are not those that were written")
    weights = {
        name: {key: tensors[full] for key, full in keys.items()}
        for name, keys in record["weights"].items()
    }
    return SavedWeights(weights, manifest=record["manifest"])


def _record(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the file says about itself, once its checksum and format agree."""
    header = metadata.get("polyak")
    if header is None:
        raise FileError(
            f"{os.fspath(path)} has no manifest; expected a file that polyak.save wrote. "
            "Read foreign files with safetensors itself."
        )
    if metadata.get("polyak_crc32") != str(zlib.crc32(header.encode())):
        raise _damaged(path, "the manifest is not the one that was written")
    record: dict[str, Any] = json.loads(header)
    if record["format"] != _FORMAT:
        raise FileError(
            f"{os.fspath(path)} has format {record['format']!r}; expected {_FORMAT}. "
            "Read it with the version of polyak that wrote it, or a later one."
        )
    return record


def _damaged(path: str | os.PathLike[str], why: str) -> FileError:
    return FileError(
        f"{os.fspath(path)} is damaged ({why}); expected a whole file of polyak.save. "
        "Take the copy before it."
    )


def _describe(averager: Averager) -> dict[str, Any]:
    state = averager.state_dict()
    return {
        "averages": state["averages"],
        "every": averager.every,
        "steps": averager.steps,
        "updates": averager.updates,
        "skipped": averager.skipped,
        "refreshed_batchnorm": sorted(state["refreshed"]),
    }


def _checksum(tensor: Tensor) -> int:
    """CRC-32 of the tensor's bytes. Safetensors itself notices lost bytes, not altered ones."""
    flat = tensor.detach().cpu().contiguous()
    size = flat.numel() * flat.element_size()
    # numpy would lend the bytes too, but the plug-in does without it.
    return zlib.crc32((ctypes.c_char * size).from_address(flat.data_ptr())) if size else 0


def _identity(tensor: Tensor, name: str) -> tuple[Any, ...]:
    """Equal for two names of the same memory seen the same way."""
    if not tensor.numel():
        return (name,)
    storage = tensor.untyped_storage().data_ptr()
    return (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
