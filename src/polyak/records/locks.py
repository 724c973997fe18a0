"""One process at a time in a folder."""

import fcntl
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

from polyak.errors import PolyakError

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
            return _lives(self.pid)
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
        host=host if isinstance(host, str) else None,
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
    descriptor = _locked(path)
    try:
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
            # Before the lock is given up: afterwards the name may be another's.
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    """A descriptor of the lock file at `path`, with the kernel's lock on it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file between the two calls above.
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError as error:
            message = _held(path, _owner(descriptor))
            os.close(descriptor)
            raise HeldError(message) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


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
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _owner(descriptor: int) -> dict[str, Any]:
    return _parsed(os.pread(descriptor, 4096, 0))


def _owner_at(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    """What a lock file says, or nothing where its writer was killed before it said it."""
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _held(path: Path, owner: dict[str, Any]) -> str:
    return (
        f"{path.parent} is held by process {owner.get('pid', 'unknown')} on "
        f"{owner.get('host', 'this host')}; expected a folder that nobody else is working in. "
        "Wait for it, or stop it, and give the same command again."
    )
