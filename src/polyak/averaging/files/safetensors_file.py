"""Files of tensors by their content, never by their name; safetensors read whole or refused."""

import os
from collections.abc import Iterable, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from polyak.errors import FileError, few
from polyak.tensor_files import opened

Path = str | os.PathLike[str]

_BEGINNINGS = {
    b"PK\x03\x04": "zip",
    b"\x80": "pickle",
    b"\x93NUMPY": "numpy",
    b"\x89HDF": "HDF5",
    b"GGUF": "GGUF",
    b"\x1f\x8b": "gzip",
}


def file_format(path: Path) -> str:
    """What a file's first bytes say it is: "safetensors", "zip", "pickle", … or "unknown".

    Raises:
        FileError: if there is no such file, or it may not be read.
    """
    if not os.path.isfile(path):
        raise FileError(f"{os.fspath(path)} is no file; expected one of weights. Check the path.")
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise FileError(
            f"{os.fspath(path)} cannot be read ({error.strerror}); expected a file of weights. "
            "Check its permissions."
        ) from error
    # Eight bytes of length, then a JSON object.
    if head[8:] == b"{":
        return "safetensors"
    for beginning, name in _BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    return "unknown" if head else "empty"


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; the tensors are copies, not views of the file.

    Raises:
        FileError: for a damaged file, or a dtype that this torch does not have.
    """
    with opened(path) as file:
        # The library maps the file: written to later, it would change under a tensor whose
        # checksum was found right.
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (no dict)
        return file.metadata() or {}, tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, without reading its tensors.

    Raises:
        FileError: for a damaged file.
    """
    with opened(path) as file:
        return dict(file.metadata() or {})


def refuse_unwritable(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose dtype safetensors does not have, such as complex128.

    Raises:
        FileError: naming them.
    """
    dtypes = {dtype for dtype in {x.dtype for x in tensors.values()} if not _is_writable(dtype)}
    bad = [name for name, x in tensors.items() if x.dtype in dtypes]
    if bad:
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise FileError(
            f"the dtype of {quote(bad)} is {found}; expected one that safetensors has. "
            "Convert it, or write the state dict with torch.save."
        )


def _is_writable(dtype: torch.dtype) -> bool:
    # Asked of the library, whose list grows.
    try:
        save({"x": torch.empty(0, dtype=dtype, device="cpu")})
    except (KeyError, ValueError, SafetensorError):
        return False
    return True


def quote(names: Iterable[str]) -> str:
    """The first names from a file, for a message."""
    return few([repr(name) for name in names])
