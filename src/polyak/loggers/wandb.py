"""Curves at Weights & Biases: the project polyak, a run of theirs a run of ours, the epoch as step.

What $WANDB_MODE and their other variables say holds; files lie in out/logs/wandb/.
"""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from polyak.loggers.curves import Curves
from polyak.loggers.written import mark_written, missing_extra, written

PROJECT = "polyak"


@dataclass(slots=True)
class WandbLogger:
    """Appends what is new; another process's run is gone on with under its id."""

    folder: Path
    _library: Any = None
    _runs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self._library = import_module("wandb")
        except ImportError as error:
            raise missing_extra("wandb") from error

    def write(self, curves: Curves, *, ended: bool) -> None:
        """See `Logger`."""
        # Only what is sent before it is noted down could be sent twice, by a process that was
        # killed in between; theirs takes the same step of one run once.
        place = self.folder / "runs" / curves.run
        before = written(place) or 0
        for epoch, values in curves.epochs.items():
            if epoch > before:
                self._run(curves).log({"epoch": epoch, **values}, step=epoch)
                mark_written(place, epoch)
        if ended and curves.run in self._runs:
            self._runs.pop(curves.run).finish()

    def close(self) -> None:
        """See `Logger`."""
        while self._runs:
            self._runs.popitem()[1].finish()

    def _run(self, curves: Curves) -> Any:
        if curves.run not in self._runs:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._runs[curves.run] = self._library.init(
                project=PROJECT,
                id=curves.run,
                name=curves.name,
                config=dict(curves.config),
                dir=str(self.folder),
                resume="allow",
                # A study has several runs at a time.
                reinit="create_new",
                settings=self._library.Settings(console="off", quiet=True),
            )
        return self._runs[curves.run]
