"""One file's weights of one name: read from any known file, written plain or as others do."""

import json
import os
from collections.abc import Mapping
from pathlib import Path as Folder
from typing import Any

import torch
from torch import Tensor

from polyak import tensor_files
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.foreign import EXPORTED, open_weights, read_foreign
from polyak.averaging.files.layouts.written import Kept, diffusers_settings, written_as
from polyak.averaging.files.on_disk.weights import OnDisk
from polyak.averaging.files.on_disk.writing import Read
from polyak.averaging.kinds.profiles.profile import folded_in
from polyak.averaging.kinds.records import from_record, is_whole
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import ConfigError, FileError, unknown
from polyak.files import read_json, replacing, write_json


def read_named(path: Path, name: str | None) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """A file's weights of one name, and what the file says of all that it holds.

    Args:
        path: A file that `read_foreign` reads.
        name: Which of its weights; None for a file's only ones.

    Returns:
        Name, state dict, manifest.

    Raises:
        ConfigError: if the file has no weights of that name, or several and none is named.
        FileError: if its parameters have no names, and as `read_foreign` does.
    """
    disk = open_weights(path)
    name, _, manifest = _named(disk.weights, path, name)
    [loaded] = disk.load([name]).values()
    return name, loaded, manifest


def open_named(path: Path, name: str | None) -> tuple[OnDisk, dict[str, Tensor], dict[str, Any]]:
    """The same with stand-ins for what is still on the disk, and what reads it."""
    disk = open_weights(path)
    _, state, manifest = _named(disk.weights, path, name)
    return disk, state, manifest


def read_kept(path: Path, name: str | None) -> tuple[str, Kept]:
    """An average in a file, with all that another tool needs to go on with it.

    Raises:
        ConfigError: if the file does not say how the average came about, and as `read_named`.
        FileError: as `read_named` does.
    """
    saved = read_foreign(path)
    name, state, manifest = _named(saved, path, name)
    kinds = manifest.get("averages")
    kind = kinds.get(name) if isinstance(kinds, Mapping) else None
    found = [manifest.get(key) for key in ("updates", "steps", "every")]
    counts = [x for x in found if type(x) is int]
    if not isinstance(kind, Mapping) or len(counts) < len(found):
        raise ConfigError(
            f"{os.fspath(path)} does not say by which rule and how many updates {name!r} came "
            "about; expected a file of polyak.save, or a checkpoint with an averager's state. "
            "Export it as a plain state dict, without --as."
        )
    updates, steps, every = counts
    natures = manifest.get("weights") or {}
    raw = [
        saved[other]
        for other in saved
        if (other == "raw" or str(natures.get(other)).startswith("raw"))
        and saved[other].keys() == state.keys()
    ]
    return name, Kept(
        state=state,
        raw=raw[0] if raw else None,
        kind=kind,
        updates=updates,
        folded=_folded(manifest, name, updates=updates, every=every),
        steps=steps,
        every=every,
    )


def _folded(manifest: Mapping[str, Any], name: str, *, updates: int, every: int) -> int:
    """How many updates an average has taken in; a file need not say so of a regular run."""
    kind, counts = manifest["averages"][name], manifest.get("folded")
    if isinstance(counts, Mapping) and type(counts.get(name)) is int:
        return int(counts[name])
    if not is_whole(kind):  # no file holds its code
        return updates
    return folded_in(from_record(kind), updates=updates, every=every)


def write_as(tool: str, kept: Kept, out: Path) -> str:
    """Write an average as a tool saves it: pickled as torch does, or into a folder of diffusers.

    Args:
        tool: One of `layouts.written.TOOLS`.
        kept: The average.
        out: A file; for diffusers it may be a folder that `save_pretrained` of the model has made.

    Returns:
        What loads it, in words.

    Raises:
        ConfigError: for what the tool cannot say, and a folder that is none of diffusers'.
        OSError: if the disk refuses, naming `out`.
    """
    if os.path.isdir(out):
        if tool != "diffusers":
            raise ConfigError(f"out is '{out}', a folder; expected a file. Name a new one.")
        return _into_folder(kept, Folder(out))
    written = written_as(tool, kept)
    with replacing(out) as temporary:
        torch.save(written.content, temporary)
    return written.loader


def _into_folder(kept: Kept, folder: Folder) -> str:
    """Let a folder of `save_pretrained` be one of `EMAModel.save_pretrained`."""
    described = folder / "config.json"
    if not described.is_file() or list(folder.glob("*.index.json")):
        raise ConfigError(
            f"out is '{folder}'; expected a folder of save_pretrained with a config.json and one "
            "file of weights. Make one by averager.module(name).save_pretrained(folder)."
        )
    settings = diffusers_settings(kept)
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensor_files.write(weights, _of_their_own(kept.state), {"format": "pt"})
    write_json(described, {**read_json(described), **settings})
    return "EMAModel.from_pretrained(folder, model_cls)"


def _named(
    saved: SavedWeights, path: Path, name: str | None
) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    where = os.fspath(path)
    if name is None:
        if len(saved) != 1:
            raise ConfigError(
                f"{where} holds {', '.join(saved)}; expected weights of one name. Name them."
            )
        [name] = saved
    if name not in saved:
        raise ConfigError(unknown(f"name in {where}", name, saved))
    if saved.manifest.get("names") == "order":
        raise FileError(
            f"{where} holds parameters in order, without names; expected names. "
            "Use polyak.read_foreign(path, model) and polyak.save."
        )
    return name, saved[name], saved.manifest


def write_plain(state: Mapping[str, Tensor], out: Path, about: Mapping[str, Any]) -> None:
    """Write a state dict to a safetensors file that any tool reads.

    Args:
        state: The tensors, tied ones under each of their names.
        out: The file; written beside its place and renamed.
        about: JSON values that `polyak inspect` shows; `name` is the weights' name.

    Raises:
        FileError: for a dtype that safetensors does not have.
        OSError: if the disk refuses, naming `out`.
    """
    tensor_files.write(out, _of_their_own(state), described(about))


def write_in_turn(
    layout: Mapping[str, Tensor], read: Read, out: Path, about: Mapping[str, Any]
) -> None:
    """The same of a state dict of which one tensor at a time is in memory.

    Args:
        layout: Tensors of the same dtypes and shapes, whose values do not count.
        read: Gives the tensors of some names.
        out, about, errors: as `write_plain`.
    """
    tensor_files.write_in_turn(out, layout, read, described(about))


def described(about: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file that any tool reads."""
    return {"format": "pt", EXPORTED: json.dumps(about)}


def _of_their_own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # The format refuses tied weights and views; a plain state dict has every name anyway.
    return {key: x.detach().clone().contiguous() for key, x in state.items()}
