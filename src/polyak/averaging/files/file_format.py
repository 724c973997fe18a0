"""What a file holds, by its first bytes and never by its name."""

import os
from collections.abc import Iterable

from polyak.errors import FileError

Path = str | os.PathLike[str]

_BEGINNINGS = {
    b"PK\x03\x04": "zip",
    b"\x80": "pickle",
    b"\x93NUMPY": "numpy",
    b"\x89HDF": "HDF5",
    b"GGUF": "GGUF",
    b"\x1f\x8b": "gzip",
}


def paths_of(files: Path | Iterable[Path]) -> list[Path]:
    """Several files, or one: a path given by itself is no sequence of letters."""
    return [files] if isinstance(files, str | os.PathLike) else list(files)


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
