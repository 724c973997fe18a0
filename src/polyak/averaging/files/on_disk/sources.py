"""Tensors in files, of which dtype and shape are known before any is read."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from polyak import tensor_files
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.manifest import RECORD, parse_record, verify_names, verify_tensors

READ_AT_ONCE = 1
"""Values up to which a tensor is read at once: counters, whose values say what the others are."""


class Source(Protocol):
    """Where tensors are to be had."""

    @property
    def has_checksums(self) -> bool:
        """Whether `verify` compares anything."""
        ...

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Some of its tensors, each to be used before the next is asked for."""
        ...

    def verify(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse what is not as it was written, as far as the source has checksums."""
        ...


class StandIns:
    """Tensors of the dtypes and shapes of others that are still on the disk, in no memory.

    All places of a stand-in show one value, which is NaN where the dtype has it. It can go wherever
    dtype, shape and identity are all that is looked at.
    """

    def __init__(self) -> None:
        self._places: dict[int, tuple[Source, str]] = {}
        self._kept: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._places)

    def make(self, source: Source, name: str, like: Tensor) -> Tensor:
        """One for a source's tensor."""
        try:
            value = torch.full((), float("nan"), dtype=like.dtype)
        except (RuntimeError, TypeError, ValueError):  # whole numbers, and the narrowest dtypes
            value = torch.zeros(like.dtype.itemsize, dtype=torch.uint8).view(like.dtype)[0]
        # An address is an identity only as long as its memory is kept.
        self._kept.append(value)
        self._places[value.data_ptr()] = (source, name)
        return value.expand(like.shape)

    def place(self, tensor: Tensor) -> tuple[Source, str] | None:
        """Where the tensor is that this stands for; None for one that is no stand-in."""
        return self._places.get(tensor.untyped_storage().data_ptr())


class SafetensorsFile:
    """A safetensors file; one of ours says of each tensor what its checksum is.

    Raises:
        FileError: for a damaged file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata = tensor_files.read_metadata(path)
        self.record: dict[str, Any] | None = (
            parse_record(path, self.metadata) if RECORD in self.metadata else None
        )

    @property
    def has_checksums(self) -> bool:
        return self.record is not None

    def tensors(self, made: StandIns) -> dict[str, Tensor]:
        """Stand-ins for its tensors, and its counters themselves."""
        with tensor_files.opened(self.path) as file:
            # Views of the mapped file, of which nothing is read.
            views = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            small = {name: x.clone() for name, x in views.items() if x.numel() <= READ_AT_ONCE}
            found = {
                name: small[name] if name in small else made.make(self, name, x)
                for name, x in views.items()
            }
        if self.record is not None:
            verify_names(self.path, self.record, found)
        self.verify(small)
        return found

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """As views of the file."""
        with tensor_files.opened(self.path) as file:
            for name in names:
                yield name, file.get_tensor(name)

    def verify(self, tensors: Mapping[str, Tensor]) -> None:
        """Compare tensors with their checksums.

        Raises:
            FileError: naming those that differ.
        """
        if self.record is not None:
            verify_tensors(self.path, self.record, tensors)
