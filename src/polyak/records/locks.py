"""One process at a time in a run's folder."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyak.errors import PolyakError

NAME = "LOCK"


class HeldError(PolyakError, RuntimeError):
    """Another process works in the folder."""


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder for the length of the block.

    The file LOCK says who is in there: pid, host and start time. The kernel's lock on that file
    is what counts on one host: it goes with its process, however that ends, so the lock of a
    dead one is taken over and a pid that was given out again deceives nobody.

    Raises:
        HeldError: if another process holds the folder, or a process of another host, of which
            nobody here knows whether it lives.
    """
    path = folder / NAME
    descriptor = _locked(path)
    try:
        _refuse_other_host(path, descriptor)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        try:
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


def _refuse_other_host(path: Path, descriptor: int) -> None:
    owner = _owner(descriptor)
    if owner and owner.get("host") != socket.gethostname():
        raise HeldError(
            f"{_held(path, owner)} If that process is no more, remove the file LOCK there."
        )


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> dict[str, Any]:
    """What the lock file says, or nothing where its writer was killed before it said it."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _held(path: Path, owner: dict[str, Any]) -> str:
    return (
        f"{path.parent} is held by process {owner.get('pid', 'unknown')} on "
        f"{owner.get('host', 'this host')}; expected a run that nobody else is working on. "
        "Wait for it, or stop it, and give the same command again."
    )
