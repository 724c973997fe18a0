"""One process at a time in a folder."""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyak.errors import PolyakError, printable
from polyak.files import lives

NAME = "LOCK"
BEAT_SECONDS = 10.0
"""Between two signs of life of a holder, for those on other hosts."""
PATIENCE_SECONDS = 60.0
"""How long a holder on another host may be silent."""


class HeldError(PolyakError, RuntimeError):
    """Another process works in the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who works in a folder, as far as its lock says."""

    pid: int | None
    host: str | None
    silent_seconds: float
    """Since the last sign of life."""

    @property
    def here(self) -> bool:
        """Whether it is of this host."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it still works there, as far as can be told from here."""
        if self.here and self.pid is not None:
            return lives(self.pid)
        return self.silent_seconds < PATIENCE_SECONDS


def holder(folder: Path) -> Holder | None:
    """Who works in the folder, or did when it died; None if nobody. Changes nothing."""
    try:
        with (folder / NAME).open("rb") as file:
            owner = _parsed(file.read(4096))
            silent = time.time() - os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    pid, host = owner.get("pid"), owner.get("host")
    return Holder(
        pid=pid if isinstance(pid, int) else None,
        host=printable(host) if isinstance(host, str) else None,
        silent_seconds=max(0.0, silent),
    )


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder for the length of the block.

    The file LOCK says who is in there: pid, host and start time. The kernel's lock on that file
    is what counts on one host: it goes with its process, however that ends, so the lock of a
    dead one is taken over and a reused pid misleads nobody. Between hosts,
    which need not share the kernel's locks, the holder counts in the file every ten seconds; one
    that was not heard for a minute, by the clock of who waits, is dead.

    Raises:
        HeldError: if another process holds the folder.
    """
    path = folder / NAME
    with _locked(path) as descriptor:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        before = _owner(descriptor)
        if before and before.get("host") != owner["host"]:
            _await_silence(path, before)
            _take_over(path, descriptor, owner)
        _write(descriptor, {**owner, "beats": 0})
        try:
            with _beating(descriptor, owner):
                yield
        finally:
            # Before the lock is given up: afterwards the name may be another's. A system that does
            # not remove open files (Windows) has it removed by the library.
            with suppress(OSError):
                path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The kernel's lock on the file at `path`, and a descriptor of it to read and write."""
    # Not at the top: who only looks at a lock does not wait for asyncio, which comes with it.
    from filelock import FileLock, Timeout

    descriptors: list[int] = []
    # A moment of patience, since whoever held it may be removing the file.
    lock = FileLock(path, timeout=0.2, fallback_to_soft=False, on_acquired=descriptors.append)
    try:
        lock.acquire(poll_interval=0.02)
    except Timeout as error:
        raise HeldError(_held(path, _owner_at(path))) from error
    except OSError as error:
        raise _refused(path, error) from error
    try:
        yield descriptors[0]
    finally:
        lock.release()


def _refused(path: Path, error: OSError) -> OSError:
    """The error of a system that gives no lock, in words of its own where it has none to give."""
    if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        return OSError(error.errno, f"{error.strerror}: this storage has no locks", str(path))
    if error.errno == errno.ELOOP:
        return OSError(error.errno, "it is a symbolic link", str(path))
    return error


def _await_silence(path: Path, owner: dict[str, Any]) -> None:
    """Return when a holder on another host has been silent for long enough.

    No two clocks are compared, and the file is opened anew for each look, since a network's file
    system shows what others wrote only then.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 4)
        if _owner_at(path) != owner:
            raise HeldError(_held(path, _owner_at(path)))


def _take_over(path: Path, descriptor: int, owner: dict[str, Any]) -> None:
    """Of several hosts that take over at one moment, the last to write wins."""
    _write(descriptor, owner)
    time.sleep(BEAT_SECONDS / 4)
    if _owner_at(path) != owner:
        raise HeldError(_held(path, _owner_at(path)))


@contextmanager
def _beating(descriptor: int, owner: dict[str, Any]) -> Iterator[None]:
    """Count in the lock file for the length of the block."""
    over = threading.Event()

    def beat() -> None:
        beats = 0
        while not over.wait(BEAT_SECONDS):
            beats += 1
            # A full disk is found out by those who have something to write.
            with suppress(OSError):
                _write(descriptor, {**owner, "beats": beats})

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _write(descriptor: int, owner: dict[str, Any]) -> None:
    text = json.dumps(owner).encode()
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)


def _owner(descriptor: int) -> dict[str, Any]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return _parsed(os.read(descriptor, 4096))


def _owner_at(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    """What a lock file says, or nothing where its writer was killed before it said it."""
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _who(owner: dict[str, Any]) -> str:
    if not owner:
        return "a process that has not said yet which it is"
    return f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'this host')}"


def _held(path: Path, owner: dict[str, Any]) -> str:
    return (
        f"{path.parent} is held by {_who(owner)}; expected a folder that nobody else works in. "
        "Wait for it, or stop it, and give the same command again."
    )
