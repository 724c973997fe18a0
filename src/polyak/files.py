"""Writing files so that a reader never sees half of one, and reading JSON that may be damaged."""

import csv
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_STAGING = re.compile(r"\.polyak-(?P<host>.+)-(?P<pid>\d+)-\w+")
"""A folder in which a process makes what will be renamed into its place."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path near `path` whose file takes its place when the block ends well.

    The file is flushed to disk before it is renamed, so after a crash `path` is either
    the old file or the whole new one. If the block raises, nothing is left behind; what a killed
    process leaves, the next call in the same folder removes.

    Raises:
        OSError: as the block does, and naming `path` where the temporary is meant.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    target = Path(path)
    with naming(target), staging(target.parent) as folder:
        # The target's own name, so that one as long as the disk allows can be written.
        temporary = folder / target.name
        # The kernel applies the mask of permissions. Libraries that write elsewhere and rename
        # make private files, so the mode is set again below.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode & 0o777)
        os.replace(temporary, target)


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """An empty hidden folder in `parent` for the length of the block; `parent` is made too.

    Folders that killed processes of this host have left in `parent` are removed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    prefix = f".polyak-{socket.gethostname()}-{os.getpid()}-"
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what processes of this host that live no more have left of `staging` in a folder."""
    host = socket.gethostname()
    with os.scandir(parent) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(".polyak-")]
    for path in found:
        made = _STAGING.fullmatch(Path(path).name)
        if made and made["host"] == host and not lives(int(made["pid"])):
            shutil.rmtree(path, ignore_errors=True)


def is_staging(path: Path) -> bool:
    """Whether a path is a folder of `staging`, of whatever process."""
    return _STAGING.fullmatch(path.name) is not None and path.is_dir()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in errors of the system that name no file, or a temporary of `staging`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not _is_staged(error.filename):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def lives(pid: int) -> bool:
    """Whether there is a process of that number on this host."""
    if sys.platform == "win32":
        return _lives_on_windows(pid)
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _lives_on_windows(pid: int) -> bool:
    """There, signal 0 is Ctrl-C and would be sent."""
    import ctypes

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    synchronize, still_active = 0x00100000, 0x00000102
    handle = kernel.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    waiting = kernel.WaitForSingleObject(handle, 0)
    kernel.CloseHandle(handle)
    return bool(waiting == still_active)


def read_json(path: str | os.PathLike[str]) -> Any:
    """The JSON value in a file, in UTF-8.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no JSON, or nested too deeply to be a record.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("brackets are nested without end") from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_csv(
    path: str | os.PathLike[str], heads: Iterable[str], lines: Iterable[Iterable[object]]
) -> None:
    """Write a table as text in UTF-8, atomically.

    A text that a spreadsheet would take for a formula gets an apostrophe before it, as spreadsheets
    want it: class names come from strangers. Characters that no UTF-8 can hold are written as their
    escapes.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows([_cell(value) for value in line] for line in lines)


def _cell(value: object) -> object:
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    with suppress(ValueError):
        float(value)
        return value
    return f"'{value}"


def _is_staged(filename: object) -> bool:
    if filename is None:
        return True
    parts = Path(os.fsdecode(filename)).parts if isinstance(filename, (str, bytes)) else ()
    return any(_STAGING.fullmatch(part) for part in parts)
