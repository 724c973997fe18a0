"""Folders of torch.distributed.checkpoint, read in one process and without running anything.

torch reads their index with an unpickler that runs whatever it names, and values that are no
tensors likewise. Here the index may name only what an index is made of, and values are read by
torch's restricted unpickler.
"""

import io
import os
import pickle
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path as Folder
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polyak.averaging.files.on_disk.sources import READ_AT_ONCE, StandIns
from polyak.errors import FileError, one_line, quote
from polyak.tensor_files import damaged

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

INDEX = ".metadata"
_LARGEST_VALUE = 1 << 20
"""Bytes of a value that is no tensor, such as a step, up to which it is read."""

_METADATA = (
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorProperties",
    "TensorStorageMetadata",
    "_MEM_FORMAT_ENCODING",
)
_BEFORE = "torch.distributed._shard.sharded_tensor.metadata"
"""Where torch before 2.3 had the properties of tensors."""

_ALLOWED = {
    *(("torch.distributed.checkpoint.metadata", name) for name in _METADATA),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("builtins", "dict"),
    ("builtins", "set"),
    *((_BEFORE, name) for name in ("TensorProperties", "MEM_FORMAT_ENCODING")),
}
_PATHS = ("pathlib", "pathlib._local")
"""Where a checkpoint's own place comes from, on whichever system it was written."""


def is_distributed(folder: Folder) -> bool:
    """Whether torch.distributed.checkpoint wrote a folder."""
    return (folder / INDEX).is_file()


class DistributedFolder:
    """A folder of torch.distributed.checkpoint.

    Args:
        folder: With `.metadata` and the files of every process that it names.

    Raises:
        FileError: for an index that is damaged or names what none needs, and for a missing file.
    """

    has_checksums = False

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

        self._index = MetadataIndex
        self._metadata = _read_index(folder)
        with _refusing(folder):
            self._tensors = {
                name: about
                for name, about in self._metadata.state_dict_metadata.items()
                if isinstance(about, TensorStorageMetadata)
            }
            self._check_files()

    def content(self, made: StandIns) -> dict[str, Any]:
        """What was saved, nested as it was, with stand-ins for tensors."""
        with _refusing(self._folder):
            return self._nested(made)

    def _nested(self, made: StandIns) -> dict[str, Any]:
        nested: dict[str, Any] = {}
        paths = self._metadata.planner_data or {}
        # What bfloat16 averages lack to float32 is added to them as soon as they are found.
        at_once = any("remainder" in path for path in paths.values())
        for name in self._metadata.state_dict_metadata:
            value = self._value(name, None if at_once else made)
            *above, last = paths.get(name) or (name,)
            inner = nested
            for key in above:
                inner = inner.setdefault(key, {})
            inner[last] = value
        return nested

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Each put together from its parts, or as the one part that it is."""
        for name in names:
            about = self._tensors[name]
            whole: Tensor | None = None
            for chunk in about.chunks:
                part = self._part(name, chunk.offsets)
                if part.shape != chunk.sizes or part.dtype != about.properties.dtype:
                    raise damaged(self._folder, f"a part of {quote([name])} is not as indexed")
                if part.shape == about.size:
                    whole = part
                    break
                if whole is None:
                    whole = torch.empty(about.size, dtype=part.dtype)
                place = zip(chunk.offsets, chunk.sizes, strict=True)
                whole[tuple(slice(start, start + size) for start, size in place)] = part
            yield name, torch.empty(about.size) if whole is None else whole

    def verify(self, tensors: Mapping[str, Tensor]) -> None:
        """Such folders have no checksums."""

    def _check_files(self) -> None:
        named = {info.relative_path for info in self._metadata.storage_data.values()}
        # An index is text from elsewhere: it names files of its own folder only.
        if odd := [name for name in named if Folder(name).name != name]:
            raise damaged(self._folder / INDEX, f"it names {quote(odd)}, outside its folder")
        missing = [name for name in named if not (self._folder / name).is_file()]
        if missing:
            raise FileError(
                f"{self._folder} lacks {quote(missing)}; expected the files of all processes. "
                "Copy the whole folder."
            )
        sizes = {name: (self._folder / name).stat().st_size for name in named}
        for info in self._metadata.storage_data.values():
            if not 0 <= info.offset <= info.offset + info.length <= sizes[info.relative_path]:
                raise damaged(self._folder / info.relative_path, "it ends before what is indexed")
        for name, about in self._tensors.items():
            held = sum(chunk.sizes.numel() for chunk in about.chunks)
            stored = sum(self._info(name, chunk.offsets).length for chunk in about.chunks)
            # More than is stored would be made room for before anything is read.
            if held != about.size.numel() or held * about.properties.dtype.itemsize > stored:
                raise damaged(self._folder, f"its index has {held} values of {quote([name])}")

    def _info(self, name: str, offsets: torch.Size | None = None) -> Any:
        """Where a value or a part of a tensor lies."""
        found = self._metadata.storage_data.get(self._index(name, offsets))
        if found is None:
            raise damaged(self._folder / INDEX, f"it lacks a place of {quote([name])}")
        return found

    def _value(self, name: str, made: StandIns | None) -> object:
        about = self._tensors.get(name)
        if about is None:
            info = self._info(name)
            return self._load(info) if info.length <= _LARGEST_VALUE else None
        if made is None or about.size.numel() <= READ_AT_ONCE:
            return next(self.read([name]))[1]
        like = torch.empty((), dtype=about.properties.dtype).expand(about.size)
        return made.make(self, name, like)

    def _part(self, name: str, offsets: torch.Size) -> Tensor:
        part = self._load(self._info(name, offsets))
        if not isinstance(part, Tensor):
            raise damaged(self._folder, f"{quote([name])} is no tensor")
        return part

    def _load(self, info: Any) -> object:
        if getattr(info, "transform_descriptors", None):
            raise FileError(
                f"{self._folder} is written through {quote(info.transform_descriptors)}; expected "
                "plain files. Save it without extensions."
            )
        path = self._folder / info.relative_path
        try:
            with path.open("rb") as file:
                view: Any = _View(file, info.offset, info.length)
                return torch.load(view, map_location="cpu", weights_only=True)
        except Exception as error:  # an unpickler meets any exception in a hostile file
            raise damaged(path, one_line(error)) from error


class _View(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: io.BufferedReader, offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")[: max(0, self._length - self._at)]
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(room)
        self._at += count
        return count


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in _PATHS and name.endswith("Path"):
            return PurePath
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


@contextmanager
def _refusing(folder: Folder) -> Iterator[None]:
    """Makes a FileError of what an index of odd parts leads to."""
    try:
        yield
    except FileError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise damaged(folder / INDEX, one_line(error)) from error


def _read_index(folder: Folder) -> "Metadata":
    from torch.distributed.checkpoint.metadata import Metadata

    path = folder / INDEX
    try:
        with path.open("rb") as file:
            found = _Unpickler(file).load()
    except Exception as error:  # an unpickler meets any exception in a hostile file
        raise damaged(path, one_line(error)) from error
    if not isinstance(found, Metadata) or not isinstance(found.storage_data, dict):
        raise damaged(path, "it is no index of torch.distributed.checkpoint")
    return found
