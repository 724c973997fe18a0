"""Following runs by their files, from the process that started them or any other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from polyak.errors import ConfigError, FileError, unknown
from polyak.loggers.csv_file import CsvLogger
from polyak.loggers.curves import Curves, read_curves
from polyak.loggers.tensorboard import TensorBoardLogger
from polyak.loggers.wandb import WandbLogger
from polyak.records.runs import RunFolder, run_folder

LoggerName = Literal["tensorboard", "wandb", "csv"]
LOGGER_NAMES: tuple[LoggerName, ...] = get_args(LoggerName)


class Logger(Protocol):
    """Where curves go."""

    def write(self, curves: Curves, *, ended: bool) -> None:
        """Bring what is there of a run up to date; epochs that are there are not written twice.

        Args:
            curves: All that the run has recorded.
            ended: Whether no more is to come.
        """

    def close(self) -> None:
        """Finish all runs, for now: another process may go on with them."""


LOGGERS: dict[str, Callable[[Path], Logger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "csv": CsvLogger,
}
"""By name, each from the folder that it writes to."""

OnFault = Callable[[str, Exception], None]


@dataclass(slots=True)
class Follower:
    """Hands on what runs have recorded since it was last looked at."""

    out: Path
    loggers: dict[str, Logger]
    on_fault: OnFault
    _names: dict[str, str] = field(default_factory=dict)
    """Of the runs, by id."""

    _seen: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """What the files of each run were when they were last read."""

    def follow(self, run: str, name: str) -> None:
        """Look at a run, and hand on what is new.

        Args:
            run: Id of a run of the output folder; one without a log is left alone.
            name: The run in a few words.
        """
        self._names[run] = name
        folder = run_folder(self.out, run)
        state = _state(folder)
        if not self.loggers or not folder.log.exists() or self._seen.get(run) == state:
            return
        try:
            curves = read_curves(folder, name=name)
            ended = folder.ending is not None
        except (FileError, OSError):
            # Whoever reads the run's results says what is wrong with it.
            return
        self._seen[run] = state
        for kind in list(self.loggers):
            self._hand_on(kind, curves, ended)

    def close(self) -> None:
        """Look at all runs once more, and finish."""
        for run, name in self._names.items():
            self.follow(run, name)
        for kind, logger in self.loggers.items():
            try:
                logger.close()
            except Exception as error:  # as below
                self.on_fault(kind, error)

    def _hand_on(self, kind: str, curves: Curves, ended: bool) -> None:
        try:
            self.loggers[kind].write(curves, ended=ended)
        except Exception as error:  # a viewer's fault, of any kind, is no reason to stop training
            logger = self.loggers.pop(kind)
            self.on_fault(kind, error)
            with suppress(Exception):
                logger.close()


@contextmanager
def following(out: Path, names: Sequence[LoggerName], *, on_fault: OnFault) -> Iterator[Follower]:
    """A follower for the length of the block; at its end all runs are brought up to date.

    Args:
        out: The output folder; curves go to `logs/` in it.
        names: Which loggers; none is allowed.
        on_fault: Told of a logger that failed, which is not used any more.

    Raises:
        ConfigError: for an unknown logger, or one that is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(unknown("log", name, LOGGERS))
    follower = Follower(out, {}, on_fault)
    for name in dict.fromkeys(names):
        follower.loggers[name] = LOGGERS[name](out / "logs" / name)
    try:
        yield follower
    finally:
        follower.close()


def _state(folder: RunFolder) -> tuple[object, ...]:
    """What changes whenever a run records something."""
    found: list[object] = []
    for path in (folder.log, folder.path / "monitor.jsonl", folder.path / "DONE"):
        try:
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_size, facts.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)
