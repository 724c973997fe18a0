"""Files of tensors in safetensors' format, whose faults are those of any file.

The library speaks of its own errors, of its temporary file and of operating systems by number; here
they become what `open` would have raised, or a `FileError` that says the file is damaged.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from polyak.errors import FileError, few, one_line, quote
from polyak.files import replacing

_BEFORE = "Take the copy before it."


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors and metadata to a file, atomically.

    Args:
        path: The file.
        tensors: Contiguous, no two of the same memory.
        metadata: Text by name.

    Raises:
        FileError: for a dtype that safetensors does not have, such as complex128, and for names
            that hold halves of characters, which no UTF-8 can hold.
        OSError: if the disk refuses, with its reason and `path`.
    """
    _refuse_unwritable(tensors)
    with replacing(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:
            raise _of_the_system(error) or error from error


def write_in_turn(
    path: str | os.PathLike[str],
    layout: Mapping[str, Tensor],
    tensors: Callable[[Sequence[str]], Iterable[tuple[str, Tensor]]],
    metadata: Mapping[str, str],
) -> None:
    """Write a file as `write` does, of which one tensor at a time is in memory.

    The library takes all of them at once. The format is its own: the length of a header in eight
    bytes, the header in JSON, the values.

    Args:
        path: The file.
        layout: Tensors of the same dtypes and shapes, whose values do not count.
        tensors: Gives those of some names, in their order.
        metadata: Text by name.

    Raises:
        FileError, OSError: as `write`.
    """
    _refuse_unwritable(layout)
    # In the library's order, in which every value lies at a multiple of its size.
    names = sorted(layout, key=lambda name: (-layout[name].dtype.itemsize, name))
    words = {x.dtype: _word_for(x.dtype) for x in layout.values()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        x = layout[name]
        start, end = end, end + x.numel() * x.dtype.itemsize
        offsets = {"data_offsets": [start, end]}
        header[name] = {"dtype": words[x.dtype], "shape": list(x.shape), **offsets}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, x in tensors(names):
            if x.numel():
                file.write(x.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
            # Not to be held while the next one is made.
            del x


def read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file; the tensors are copies, not views of the file.

    Raises:
        FileError: for a damaged file, or a dtype that this torch does not have.
    """
    with opened(path) as file:
        # The library maps the file: written to later, it would change under a tensor whose
        # checksum was found right.
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (no dict)
        return file.metadata() or {}, tensors


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Metadata of a file, without reading its tensors.

    Raises:
        FileError: for a damaged file.
    """
    with opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def opened(path: str | os.PathLike[str], *, advice: str = _BEFORE) -> Iterator[Any]:
    """A safetensors file, open for reading for the length of the block.

    Args:
        path: The file.
        advice: What to do where it is damaged.

    Raises:
        FileError: for a damaged file, and for whatever goes wrong while it is read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, RuntimeError) as error:  # the library's words for a disk that does not answer
        raise FileError(
            f"{os.fspath(path)} cannot be read ({one_line(error)}); expected a whole file on a "
            f"disk that answers. {advice}"
        ) from error
    except Exception as error:  # what a hostile header raises besides SafetensorError is open
        raise damaged(path, one_line(error), advice=advice) from error


def damaged(path: str | os.PathLike[str], why: str, *, advice: str = _BEFORE) -> FileError:
    """The error for a file whose content is not what was written."""
    return FileError(f"{os.fspath(path)} is damaged ({why}); expected a whole file. {advice}")


def _refuse_unwritable(tensors: Mapping[str, Tensor]) -> None:
    if odd := [name for name in tensors if not _is_utf8(name)]:
        raise FileError(
            f"the name of a tensor is {few(odd)}; expected text that UTF-8 can hold. Rename it."
        )
    dtypes = {dtype for dtype in {x.dtype for x in tensors.values()} if not _is_writable(dtype)}
    bad = [name for name, x in tensors.items() if x.dtype in dtypes]
    if bad:
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise FileError(
            f"the dtype of {quote(bad)} is {found}; expected one that safetensors has. "
            "Convert it, or write the state dict with torch.save."
        )


def _word_for(dtype: torch.dtype) -> str:
    """What the format calls a dtype, by the library's own header of a file."""
    one = save({"x": torch.empty(0, dtype=dtype, device="cpu")})
    return str(json.loads(one[8:])["x"]["dtype"])


def _is_writable(dtype: torch.dtype) -> bool:
    # Asked of the library, whose list grows.
    try:
        save({"x": torch.empty(0, dtype=dtype, device="cpu")})
    except (KeyError, ValueError, SafetensorError):
        return False
    return True


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_the_system(error: SafetensorError) -> OSError | None:
    """The error of the operating system that safetensors met, if it met one."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found is None:
        return None
    number = int(found[1])
    return OSError(number, os.strerror(number))
