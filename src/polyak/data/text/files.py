"""Text as bytes: the files of a folder, or of Python's standard library, cut into windows.

A window is `context` bytes and the one after them, so that each of its positions has a next byte.
Windows of a file follow each other: every byte but a file's first is predicted once, and what is
left at its end is not read. Where there are fewer than 20 files each is cut into sections of equal
length, which count as files, so that parts can be cut by file.
"""

import os
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from polyak.data.formats.walk import LITTER, walk
from polyak.data.pictures import Pixels
from polyak.errors import DataError, few

STDLIB = "stdlib"
FILES = 20
"""Files, or sections of them, that there are at least."""

_BEGINNING = 8000
"""Bytes at a file's beginning among which a zero makes it binary: git's rule."""
_NOT_STDLIB = frozenset(
    ("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings")
)
"""Folders in which it lies that are not read: other packages, tests, which many systems leave out,
and tables of encodings, which repeat one another."""
_OF_THE_MACHINE = ("_sysconfigdata", "sitecustomize", "usercustomize")
"""Beginnings of files that say how and where a Python was built."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A file or a section of one, in windows."""

    name: str
    path: Path
    start: int
    """Byte at which it begins."""

    windows: int


def find_files(where: str) -> dict[str, Path]:
    """Files by name, in the order of their names.

    Args:
        where: "stdlib", or the path of a folder or a file.

    Raises:
        DataError: if nothing is there, or what is there cannot be read.
    """
    if where == STDLIB:
        return _standard_library(Path(sysconfig.get_path("stdlib")))
    path = Path(where).expanduser()
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise DataError(
            f"source is 'text:{where}'; expected a folder or file of text there, or text:stdlib."
        )
    files = {name: file for name, file in walk(path).files.items() if not _hidden(name)}
    if not files:
        raise DataError(f"folder '{path}' holds no file; expected files of text.")
    return files


def cut(files: Mapping[str, Path], context: int) -> tuple[list[Piece], list[str]]:
    """Files in windows, and what was left out, a phrase each.

    Args:
        files: By name.
        context: Bytes of a window, >= 1, without the one after it.

    Raises:
        DataError: that names all binary files, and says so if no file is long enough.
    """
    sizes = {name: _size(path) for name, path in files.items()}
    binary = [name for name, path in files.items() if _is_binary(path)]
    sections = -(-FILES // len(files))
    pieces = [
        piece
        for name, path in files.items()
        for piece in _sections(name, path, sizes[name], sections, context)
    ]
    whole = [piece for piece in pieces if piece.windows]
    faults = []
    if binary:
        faults.append(
            f"{len(binary)} of {len(files)} files have zero bytes ({few(binary)}); expected text. "
            "Take them out"
        )
    if not whole:
        longest = max(sizes.values())
        cut_up = f", cut into {sections} sections" if sections > 1 else ""
        faults.append(
            f"context is {context}, and the longest of {len(files)} files has {longest} bytes"
            f"{cut_up}; expected a file of more bytes than context. Give a shorter context or "
            "more text"
        )
    if faults:
        raise DataError("; ".join(faults) + ".")
    notes = [f"{len(files)} files in sections: {len(whole)} count as files"] * (sections > 1)
    short = len(pieces) - len(whole)
    if short:
        notes.append(f"left out: {short} files of fewer than {context + 1} bytes")
    return whole, notes


def read_windows(pieces: Sequence[Piece], chosen_n: Pixels, context: int) -> Pixels:
    """Windows by their numbers, uint8, shape (n, context + 1).

    Args:
        pieces: Their windows are numbered one after another.
        chosen_n: Numbers, rising.
        context: As in `cut`.

    Raises:
        DataError: if a file is shorter than it was, or cannot be read.
    """
    windows = np.empty((len(chosen_n), context + 1), np.uint8)
    firsts = np.cumsum([0] + [piece.windows for piece in pieces])
    bounds = np.searchsorted(chosen_n, firsts)
    for piece, first, begin, end in zip(pieces, firsts, bounds, bounds[1:], strict=False):
        if begin == end:
            continue
        with _reading(piece.path), piece.path.open("rb") as file:
            for row in range(begin, end):
                file.seek(piece.start + int(chosen_n[row] - first) * context)
                if file.readinto(windows[row].data) != context + 1:
                    raise DataError(
                        f"file '{piece.path}' is shorter than it was; expected no change while "
                        "it is read. Prepare the data again."
                    )
    return windows


def _standard_library(folder: Path) -> dict[str, Path]:
    found = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if name not in _NOT_STDLIB and not name.startswith("config-")
        ]
        for name in files:
            if name.endswith(".py") and not name.startswith(_OF_THE_MACHINE):
                path = Path(root, name)
                found[path.relative_to(folder).as_posix()] = path
    if not found:
        raise DataError(
            f"the standard library in '{folder}' has no .py file; expected its sources. Give a "
            "folder of text, text:PATH."
        )
    return dict(sorted(found.items()))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part.lower() in LITTER for part in name.split("/"))


def _sections(name: str, path: Path, size: int, sections: int, context: int) -> Iterator[Piece]:
    bounds = [size * i // sections for i in range(sections + 1)]
    for number, (start, end) in enumerate(pairwise(bounds)):
        label = f"{name}#{number}" if sections > 1 else name
        yield Piece(label, path, start, max(0, (end - start - 1) // context))


def _size(path: Path) -> int:
    with _reading(path):
        return path.stat().st_size


def _is_binary(path: Path) -> bool:
    with _reading(path), path.open("rb") as file:
        return b"\0" in file.read(_BEGINNING)


class _reading:
    """Makes a DataError, with the file's name, of an OSError in its block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise DataError(
                f"file '{self._path}' cannot be read ({error.strerror}); expected a file of yours. "
                "Change its rights, or take it away."
            ) from error
