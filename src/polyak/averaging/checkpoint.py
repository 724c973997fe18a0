"""Weights in a file that says what they are: safetensors with a JSON manifest inside."""

import json
import os
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polyak.averaging.averager import Averager
from polyak.errors import FileError
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
                stored[full] = tensor.detach().contiguous()
    record = {"format": _FORMAT, "weights": index, "manifest": described}
    with replacing(path) as temporary:
        save_file(stored, temporary, metadata={"polyak": json.dumps(record)})


def load(path: str | os.PathLike[str]) -> SavedWeights:
    """Read a file of `save`: a mapping name → state dict, with `.manifest`.

    Raises:
        FileError: if the file is damaged or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("polyak")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise FileError(
            f"{os.fspath(path)} is damaged ({error}); expected a whole safetensors file. "
            "Take the copy before it."
        ) from error
    if header is None:
        raise FileError(
            f"{os.fspath(path)} has no manifest; expected a file that polyak.save wrote. "
            "Read foreign files with safetensors itself."
        )
    record = json.loads(header)
    weights = {
        name: {key: tensors[full] for key, full in keys.items()}
        for name, keys in record["weights"].items()
    }
    return SavedWeights(weights, manifest=record["manifest"])


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


def _identity(tensor: Tensor, name: str) -> tuple[Any, ...]:
    """Equal for two names of the same memory seen the same way."""
    if not tensor.numel():
        return (name,)
    storage = tensor.untyped_storage().data_ptr()
    return (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
