"""Faults of the disk, of its owner or of a path, as messages; all else keeps its traceback."""

import errno
import os
import select

from polyak.errors import printable

STDOUT, STDERR = 1, 2

_AGAIN = "Fix that and give the same command again: it goes on where it was."
_SPACE = f"cannot be written ({{}}); expected a disk with free space. {_AGAIN}"
_ALLOWED = (
    "cannot be read or written ({}); expected a file that you may read, or a folder that you may "
    f"write to. {_AGAIN}"
)
_KIND = (
    "cannot be used ({}); expected a folder where a folder goes and a file where a file goes. "
    "Give another path, or move away what is there."
)
_ANSWERING = f"cannot be read or written ({{}}); expected a disk that answers. {_AGAIN}"
_LOCKS = (
    "cannot be locked ({}); expected storage that has locks, as local disks do and some network "
    "storage does not. Give an output folder elsewhere."
)
_LINK = "cannot be used ({}); expected a file or folder of its own. Replace the link by it."

MESSAGES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: f"cannot be written ({{}}); expected a folder that can be written to. {_AGAIN}",
    errno.EACCES: _ALLOWED,
    errno.EPERM: _ALLOWED,
    errno.ENOTDIR: _KIND,
    errno.EISDIR: _KIND,
    errno.EEXIST: _KIND,
    errno.ENAMETOOLONG: "cannot be used ({}); expected a shorter path. Give another one.",
    errno.EIO: _ANSWERING,
    errno.ENOLCK: _LOCKS,
    errno.ENOTSUP: _LOCKS,
    errno.ENOSYS: _LOCKS,
    errno.ELOOP: _LINK,
    errno.ESTALE: _ANSWERING,
}


def message_of(error: OSError) -> str | None:
    """What to tell the user; None where it may be a fault of this program.

    Example:
        >>> message_of(OSError(errno.EROFS, "Read-only file system", "out"))[:49]
        'out cannot be written (Read-only file system); ex'
    """
    message = MESSAGES.get(error.errno or 0)
    if message is None:
        return None
    name = printable(os.fsdecode(error.filename)) if error.filename else "a file"
    return f"{name} {message.format(error.strerror)}"


def nobody_reads() -> bool:
    """Whether a reader of the output has gone, as `head` does; what is left of it is dropped."""
    if not hasattr(select, "poll"):  # Windows
        return True
    asked = select.poll()
    for stream in (STDOUT, STDERR):
        asked.register(stream, 0)
    gone = [stream for stream, event in asked.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for stream in gone:
        # What is still buffered must go somewhere when the process ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream)
        os.close(nowhere)
    return bool(gone)
