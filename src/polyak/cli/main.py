"""The command `polyak`: its commands are in `commands`, one file each; here is what they share.

Exit codes: 0 done · 1 some runs failed · 2 the request was wrong · 75 stopped at the time limit ·
130 interrupted (143 by SIGTERM) · 141 nobody reads the output. After 75, 130 and 143 the same
command goes on.
"""

import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from polyak import __version__
from polyak.cli.command_list import COMMANDS, COMPLETION, overview, what_to_install
from polyak.cli.os_errors import message_of, nobody_reads
from polyak.cli.terminal import make_streams_readable
from polyak.errors import FileError, PolyakError, unknown
from polyak.training.interruption import InterruptedRun


class Command(Protocol):
    """A command line that was read."""

    def run(self) -> int:
        """Carry it out and return the exit code."""


TIME_LIMIT = 75
"""What BSD calls EX_TEMPFAIL: nothing is wrong, try again."""

READER_GONE = 128 + 13
"""What a shell gives for a process that SIGPIPE ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given == ["--version"]:
        print(f"polyak {__version__}")
        return 0
    try:
        try:
            return _run(given)
        finally:
            # Else a reader that has gone would be noticed only when the process ends.
            sys.stdout.flush()
    except PolyakError as error:
        print(f"polyak: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # A worker's pipe is another matter.
        if not nobody_reads():
            raise
        return READER_GONE
    except OSError as error:
        message = message_of(error)
        if message is None:
            raise
        print(f"polyak: {message}", file=sys.stderr)
        return 2
    except InterruptedRun as interrupted:
        number = interrupted.signal_number
        return (
            _interrupted(TIME_LIMIT, str(interrupted))
            if number is None
            else _interrupted(128 + number)
        )
    except KeyboardInterrupt:
        return _interrupted(130)


def _run(given: list[str]) -> int:
    name, *words = given or [""]
    if name in ("-h", "--help"):
        print(overview(), end="")
        raise SystemExit(0)
    if not given:
        print(overview(), end="", file=sys.stderr)
        raise SystemExit(2)
    if name not in COMMANDS and not name.startswith(COMPLETION):
        message = f"{unknown('command', name, COMMANDS)} `polyak --help` says what each does."
        print(f"polyak: {message}", file=sys.stderr)
        raise SystemExit(2)
    # What parses, and what a command needs, is imported when it is known that it is wanted.
    parsing = import_module("polyak.cli.parsing")
    try:
        command: Command = parsing.parsed(name, words)
        return command.run()
    except ModuleNotFoundError as error:
        missing = what_to_install(name, error)
        if missing is None:
            raise
        raise FileError(missing) from error


def _warned(message: Warning | str, *_where: Any, **_more: Any) -> None:
    """A warning as a line of the command, without the place in its code."""
    print(f"polyak: {message}", file=sys.stderr)


def entry() -> None:
    """What the installed command calls."""
    make_streams_readable()
    # An exception, so that everything that must be tidied up is: workers, temporary files.
    warnings.showwarning = _warned
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(_interrupted(143)))
    raise SystemExit(main())


def _interrupted(code: int, how: str = "stopped") -> int:
    print(f"polyak: {how}; the same command goes on where it was", file=sys.stderr)
    return code
