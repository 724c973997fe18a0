"""Weights in a file that says what they are: safetensors with a JSON manifest inside."""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polyak import tensor_files
from polyak.averaging.averager import Averager
from polyak.averaging.files.file_format import file_format
from polyak.averaging.files.manifest import (
    RECORD,
    dtypes,
    metadata_of,
    own_counts,
    torch_version,
    verify_record,
)
from polyak.averaging.model.sharded import is_sharded
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import ConfigError, FileError, few, quote

_SEPARATOR = "/"


def save(
    weights: Averager | Mapping[str, Mapping[str, Tensor]],
    path: str | os.PathLike[str],
    *,
    manifest: Mapping[str, Any] | None = None,
) -> None:
    """Write every average of an averager, or state dicts by name, to one safetensors file.

    Tensors that stand under several names (tied weights) or in several averages (frozen weights,
    such as the base of adapters) are stored once. The file is written beside its place and
    renamed, so a crash leaves the old file or the whole new one. Of an averager nothing is copied:
    an update in another thread waits until the file is there.

    Args:
        weights: An averager, or a mapping name → state dict; what `load` gave keeps its
            manifest. Names may not hold "/".
        path: The file.
        manifest: JSON values to keep in the file beside what an averager says of itself.

    Raises:
        ConfigError: if `manifest` sets what the averager knows itself.
        FileError: for a name that holds "/", or a dtype or layout that safetensors has not.
        OSError: if the disk refuses, naming `path`.
    """
    if not isinstance(weights, Averager):
        _write(weights, path, _described(weights, manifest or {}))
        return
    # Between a checksum and the file no average may move.
    with weights.paused():
        described = _described(weights, manifest or {})
        kept = _storages_at_rest(weights)
        states = weights.all_tensors(copy=partial(_at_rest, kept=kept))
        described["dtypes"] = {name: dtypes(state) for name, state in states.items()}
        _write(states, path, described)


def _write(
    weights: Mapping[str, Mapping[str, Tensor]],
    path: str | os.PathLike[str],
    described: Mapping[str, Any],
) -> None:
    _refuse_others(weights)
    _refuse_sharded(weights)
    _refuse_sparse(weights)
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
                stored[full] = _of_its_own(tensor, storages)
    tensor_files.write(path, stored, metadata_of(index, stored, described))


def _refuse_others(weights: object) -> None:
    """Refuse a model, one state dict, or whatever else is no state dicts by name."""
    what = type(weights).__name__
    if isinstance(weights, Mapping):
        strange = [
            name
            for name, state in weights.items()
            if not isinstance(name, str) or not isinstance(state, Mapping)
        ]
        if not strange:
            return
        what = f"a {what} with {strange[0]!r}"
    raise ConfigError(
        f"weights is {what}; expected an averager, or state dicts by the name of each average. Of "
        "a model pass {'model': model.state_dict()}."
    )


def _storages_at_rest(averager: Averager) -> set[int]:
    """Addresses of what is written to by updates alone, and of parameters, frozen or averaged."""
    state = averager.state_dict()
    rows = [state["copied"], *state["tensors"].values(), *state["refreshed"].values()]
    tensors = [x for row in rows for x in row.values()] + list(averager.model.parameters())
    return {x.untyped_storage().data_ptr() for x in tensors if _has_storage(x)}


def _at_rest(tensor: Tensor, *, kept: set[int]) -> Tensor:
    """The tensor itself if it is at rest, else a copy: a forward pass may write to it meanwhile."""
    rests = _has_storage(tensor) and tensor.untyped_storage().data_ptr() in kept
    return tensor if rests else tensor.clone()


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not is_sharded(tensor)


def load(path: str | os.PathLike[str]) -> SavedWeights:
    """Read a file of `save`: a mapping name → state dict, with `.manifest`.

    Every tensor is compared with its checksum. The tensors lie in memory of their own; what was
    stored once is one tensor in all that have it.

    Raises:
        FileError: if the file is damaged, of a newer format or not one of ours.
    """
    found = file_format(path)
    if found != "safetensors":
        words = {"empty": "is empty", "unknown": "is damaged or foreign"}
        raise FileError(
            f"{os.fspath(path)} {words.get(found, f'is a {found} file')}; expected one that "
            f"polyak.save wrote. {_FOREIGN}"
        )
    metadata, tensors = tensor_files.read(path)
    if RECORD not in metadata:
        raise FileError(
            f"{os.fspath(path)} has no manifest; expected a file that polyak.save wrote. {_FOREIGN}"
        )
    return named_by(verify_record(path, metadata, tensors), tensors)


def named_by(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedWeights:
    """State dicts of a file's tensors, by the file's record."""
    weights = {
        name: {key: tensors[full] for key, full in keys.items()}
        for name, keys in record["weights"].items()
    }
    return SavedWeights(weights, manifest=record["manifest"])


@torch.no_grad()
def gathered(
    averager: Averager, names: Sequence[str] | None = None, *, rank: int = 0
) -> SavedWeights:
    """Averages as whole tensors in the memory of one process's host, ready for `polyak.save`.

    A collective: every process must call it. Weight after weight is gathered, so that no device
    and no other process ever holds more than one.

    Args:
        averager: Of a sharded model, or of a plain one.
        names: Which averages; None means all.
        rank: Global rank of the process that gets them.

    Returns:
        State dicts by name with a manifest; without any name on all other processes.

    Example:
        >>> averager = Averager(torch.nn.Linear(2, 1), [0.9])
        >>> list(gathered(averager)["ema_0.9"])
        ['weight', 'bias']
    """
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    mine = not spread or torch.distributed.get_rank() == rank
    chosen = averager.names if names is None else tuple(names)
    whole = averager.all_tensors(chosen, copy=partial(_whole, keep=mine))
    found = {
        name: {key: x for key, x in state.items() if x is not None}
        for name, state in whole.items()
        if mine
    }
    return SavedWeights(found, manifest=manifest_of(averager, found))


def manifest_of(averager: Averager, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """What the file of an averager's `weights` says about them."""
    facts = _described(averager, {})
    return {**facts, "dtypes": {name: dtypes(state) for name, state in weights.items()}}


def _refuse_sharded(weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    if any(is_sharded(x) for state in weights.values() for x in state.values()):
        raise ConfigError(
            "the weights are spread over processes as DTensors; expected whole tensors. Save "
            "shards with torch.distributed.checkpoint.save({'averager': averager}, "
            "checkpoint_id=folder), or let every process call polyak.gathered(averager) "
            "and rank 0 save what that gives."
        )


def _refuse_sparse(weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    states = weights.values()
    if sparse := {k for s in states for k, x in s.items() if x.layout is not torch.strided}:
        raise FileError(
            f"{few(sparse)} is sparse; expected dense tensors, since safetensors has no others. "
            "Save the averager's state_dict() by torch.save, or weights without it."
        )


_FOREIGN = "`polyak inspect` says what it is, and read_foreign reads other tools' files."


def _described(
    weights: Averager | Mapping[str, Mapping[str, Tensor]], given: Mapping[str, Any]
) -> dict[str, Any]:
    own = _facts(weights) if isinstance(weights, Averager) else {}
    contradicted = own.keys() & given.keys()
    if contradicted:
        raise ConfigError(
            f"manifest sets {quote(contradicted)}, which the averager says itself; expected "
            "other names. Rename them."
        )
    kept = weights.manifest if isinstance(weights, SavedWeights) else {}
    # This module's package is imported before it, and only it knows the version that runs.
    version = sys.modules[__name__.partition(".")[0]].__version__
    versions = {"polyak": version, "torch": torch_version()}
    return {"tool": "polyak", **kept, **given, **own, **versions}


def _facts(averager: Averager) -> dict[str, Any]:
    """What an averager knows about its averages."""
    state = averager.state_dict()
    cls = type(averager.model)
    return {
        **own_counts(state["history"]),
        "averages": state["averages"],
        "every": averager.every,
        "steps": averager.steps,
        "updates": averager.updates,
        "skipped": averager.skipped,
        "buffers": averager.buffers,
        "refreshed_batchnorm": sorted(state["refreshed"]),
        "model_class": f"{cls.__module__}.{cls.__qualname__}",
    }


def _of_its_own(tensor: Tensor, storages: set[int]) -> Tensor:
    """The tensor, or a copy where its memory is stored already.

    The format refuses views that overlap, and a copy of one is only its own bytes.
    """
    storage = tensor.untyped_storage().data_ptr()
    alone = storage not in storages
    storages.add(storage)
    return tensor.detach().contiguous() if alone else tensor.detach().clone()


def _identity(tensor: Tensor, name: str) -> tuple[Any, ...]:
    """Equal for two names of the same memory seen the same way."""
    if not tensor.numel():
        return (name,)
    storage = tensor.untyped_storage().data_ptr()
    return (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)


def _whole(tensor: Tensor, *, keep: bool) -> Tensor | None:
    full = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full.to("cpu", copy=True) if keep else None
