"""State dicts of which one tensor at a time is in memory, written as others read them."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path as Folder
from typing import Any

from torch import Tensor

from polyak import tensor_files
from polyak.averaging.files.file_format import Path
from polyak.errors import ConfigError
from polyak.files import naming, staging, write_json

Read = Callable[[Sequence[str]], Iterable[tuple[str, Tensor]]]
"""Gives the tensors of some names, in their order."""

_STEM = "model"


def write_shards(
    folder: Path,
    layout: Mapping[str, Tensor],
    read: Read,
    metadata: Mapping[str, str],
    *,
    most: int,
) -> int:
    """Write safetensors of a size at most, with the index that transformers and diffusers read.

    Args:
        folder: A new one; it is there when all of it is.
        layout: Tensors of the same dtypes and shapes, whose values do not count.
        read: Gives the tensors.
        metadata: Text by name, for each file.
        most: Bytes of a file's tensors, ≥ 1; one larger tensor has a file of its own.

    Returns:
        How many files.

    Raises:
        ConfigError: if there is such a folder already, or none of its parent.
        FileError, OSError: as `tensor_files.write`.
    """
    shards = _shards(layout, most)
    names = [_name(i, len(shards)) for i in range(len(shards))]
    with _new(folder) as made:
        for name, keys in zip(names, shards, strict=True):
            part = {key: layout[key] for key in keys}
            tensor_files.write_in_turn(made / name, part, read, metadata)
        if len(shards) > 1:
            places = {k: name for name, keys in zip(names, shards, strict=True) for k in keys}
            size = sum(map(_bytes, layout.values()))
            index = {"metadata": {**metadata, "total_size": size}, "weight_map": places}
            write_json(made / f"{_STEM}.safetensors.index.json", index)
    return len(shards)


def write_distributed(folder: Path, layout: Mapping[str, Tensor], read: Read) -> None:
    """Write a folder that `torch.distributed.checkpoint.load` reads, on however many processes.

    Beside the tensor that is read, torch's writer holds the one before.

    Args, errors: as `write_shards`.
    """
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    class InTurn(DefaultSavePlanner):
        def lookup_object(self, index: Any) -> Tensor:
            [(_, tensor)] = read([index.fqn])
            return tensor

    with _new(folder) as made, warnings.catch_warnings():
        # One process is what is meant.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        # With one file for all of them torch would hold all tensors to the end.
        writer = FileSystemWriter(made, single_file_per_rank=False)
        save(dict(layout), storage_writer=writer, planner=InTurn(), no_dist=True)


@contextmanager
def _new(folder: Path) -> Iterator[Folder]:
    """A hidden folder beside one that is not there yet, whose place it takes in the end."""
    target = Folder(folder)
    if target.exists():
        raise ConfigError(f"out is '{target}', which exists; expected a new folder. Name another.")
    with naming(target), staging(target.parent) as hidden:
        made = hidden / target.name
        made.mkdir()
        yield made
        os.replace(made, target)


def _shards(layout: Mapping[str, Tensor], most: int) -> list[list[str]]:
    """Keys in their order, as many in a row as are together no larger."""
    if most < 1:
        raise ConfigError(f"the size of a shard is {most} bytes; expected at least 1. Name a size.")
    shards: list[list[str]] = [[]]
    size = 0
    for key, x in layout.items():
        if shards[-1] and size + _bytes(x) > most:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += _bytes(x)
    return shards


def _name(i: int, count: int) -> str:
    return f"{_STEM}{f'-{i + 1:05}-of-{count:05}' if count > 1 else ''}.safetensors"


def _bytes(x: Tensor) -> int:
    return x.numel() * x.dtype.itemsize
