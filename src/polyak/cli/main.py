"""The command `polyak`: its commands are in `commands`, one file each; here is what they share.

Exit codes: 0 done · 1 some runs failed · 2 the request was wrong · 75 stopped at the time limit ·
130 interrupted (143 by SIGTERM) · 141 nobody reads the output. After 75, 130 and 143 the same
command goes on.
"""

import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from polyak import __version__
from polyak.cli.commands.audit import AuditCommand
from polyak.cli.commands.data import DataCommand
from polyak.cli.commands.evaluate import EvaluateCommand
from polyak.cli.commands.export import ExportCommand
from polyak.cli.commands.inspect import InspectCommand
from polyak.cli.commands.list import ListCommand
from polyak.cli.commands.merge import MergeCommand
from polyak.cli.commands.predict import PredictCommand
from polyak.cli.commands.report import ReportCommand
from polyak.cli.commands.status import StatusCommand
from polyak.cli.commands.study import DemoCommand, StudyCommand
from polyak.cli.commands.synthesize import SynthesizeCommand
from polyak.cli.commands.train import TrainCommand
from polyak.cli.os_errors import message_of, nobody_reads
from polyak.errors import PolyakError
from polyak.training.interruption import InterruptedRun

Command = (
    Annotated[DemoCommand, tyro.conf.subcommand(name="demo")]
    | Annotated[StudyCommand, tyro.conf.subcommand(name="study")]
    | Annotated[TrainCommand, tyro.conf.subcommand(name="train")]
    | Annotated[ReportCommand, tyro.conf.subcommand(name="report")]
    | Annotated[ListCommand, tyro.conf.subcommand(name="list")]
    | Annotated[StatusCommand, tyro.conf.subcommand(name="status")]
    | Annotated[DataCommand, tyro.conf.subcommand(name="data")]
    | Annotated[EvaluateCommand, tyro.conf.subcommand(name="evaluate")]
    | Annotated[AuditCommand, tyro.conf.subcommand(name="audit")]
    | Annotated[PredictCommand, tyro.conf.subcommand(name="predict")]
    | Annotated[InspectCommand, tyro.conf.subcommand(name="inspect")]
    | Annotated[ExportCommand, tyro.conf.subcommand(name="export")]
    | Annotated[MergeCommand, tyro.conf.subcommand(name="merge")]
    | Annotated[SynthesizeCommand, tyro.conf.subcommand(name="synthesize")]
)


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


def _run(given: Sequence[str]) -> int:
    command: Command = tyro.cli(
        Command,
        prog="polyak",
        description="Weight averaging for PyTorch, and the laboratory that shows what it buys.",
        args=given,
    )
    if isinstance(command, TrainCommand):
        command.check_alone(given)
    return command.run()


def entry() -> None:
    """What the installed command calls."""
    # An exception, so that everything that must be tidied up is: workers, temporary files.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(_interrupted(143)))
    raise SystemExit(main())


def _interrupted(code: int, how: str = "stopped") -> int:
    print(f"polyak: {how}; the same command goes on where it was", file=sys.stderr)
    return code
