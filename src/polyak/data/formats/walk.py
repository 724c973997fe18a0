"""Every file below a folder, links followed: what is read is compared with what lies there."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polyak.errors import DataError

PICTURE_ENDINGS = frozenset(
    (".apng", ".avif", ".avifs", ".bmp", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2c",
     ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm",
     ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".ras", ".sgi", ".tga", ".tif",
     ".tiff", ".webp", ".xbm", ".xpm",)
)  # fmt: skip
"""Endings of the pictures that Pillow reads. A file of another ending is known by its beginning."""

LITTER = frozenset(
    (".git", ".ipynb_checkpoints", ".trash", ".trashes", ".thumbnails", ".appledouble",
     ".spotlight-v100", ".fseventsd", "__macosx", "__pycache__", "@eadir", "$recycle.bin",
     "system volume information", "lost+found")
)  # fmt: skip
"""Folders that systems and editors leave behind, in lower case. All others are the user's."""

_BEGINNINGS = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tree:
    """All that lies below a folder, by path within it, with / between the parts."""

    root: Path

    files: dict[str, Path]
    """Files, in the order of their paths."""

    folders: tuple[str, ...]
    """Folders, in the order of their paths."""

    linked: tuple[str, ...]
    """Folders that are links."""


def walk(folder: Path) -> Tree:
    """Every file and folder below `folder`, those behind links included.

    Raises:
        DataError: that names a link to nothing, a link that leads back to a folder above it, a
            folder that cannot be read, or what is no file at all.
    """
    files: dict[str, Path] = {}
    folders: list[str] = []
    linked: list[str] = []
    for path, name in _entries(folder, "", ()):
        if path.is_dir():
            folders.append(name)
            linked += [name] if path.is_symlink() else []
        elif path.is_file():
            files[name] = path
        elif path.is_symlink():
            raise DataError(
                f"'{path}' is a link to '{os.readlink(path)}', where nothing is; expected a file "
                "or a folder there. Mend the link or remove it."
            )
        else:
            raise DataError(
                f"'{path}' is neither a file nor a folder; expected one of them. Take it away."
            )
    return Tree(
        root=folder,
        files=dict(sorted(files.items())),
        folders=tuple(sorted(folders)),
        linked=tuple(sorted(linked)),
    )


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its ending, or by its first bytes where that says nothing.

    What macOS keeps beside files on foreign disks, `._x.png`, has the ending of a picture only.
    """
    if path.name.startswith("._"):
        return begins_like_a_picture(path)
    return path.suffix.lower() in PICTURE_ENDINGS or begins_like_a_picture(path)


def begins_like_a_picture(path: Path) -> bool:
    """Whether the first bytes of a file are those of PNG, JPEG, GIF, TIFF, WebP, BMP, JPEG 2000,
    AVIF or a portable map."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise DataError(
            f"file '{path}' cannot be read ({error.strerror}); expected a file of yours. "
            "Change its rights, or take it away."
        ) from error
    return (
        start.startswith(_BEGINNINGS)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[:2] == b"BM" and start[6:10] == bytes(4) and len(start) >= 26)
        or (start[4:8] == b"ftyp" and start[8:11] == b"avi")
        or re.match(rb"P[1-6]\s+[#\d]", start) is not None
    )


def listed(folder: Path) -> list[Path]:
    """What lies directly in a folder, by name; a DataError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries)
    except OSError as error:
        raise DataError(
            f"folder '{folder}' cannot be read ({error.strerror}); expected a folder of yours. "
            "Change its rights, or take it away."
        ) from error


def _entries(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[Path, str]]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise DataError(
            f"'{folder}' is a link to a folder that it lies in; expected no circle. Remove the "
            "link."
        )
    for path in listed(folder):
        yield path, f"{prefix}{path.name}"
        if path.is_dir():
            yield from _entries(path, f"{prefix}{path.name}/", (*above, here))
