"""Curves as TensorBoard's event files: out/logs/tensorboard/<run>/, the epoch as step."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyak.loggers.curves import Curves
from polyak.loggers.written import mark_written, missing_extra, written


@dataclass(slots=True)
class TensorBoardLogger:
    """Appends what is new. Where another process left off is known only if it wrote all that
    there is; else the run's events are written again from the first epoch."""

    folder: Path
    _writers: dict[str, Any] = field(default_factory=dict)
    _epochs: dict[str, int] = field(default_factory=dict)
    """How many are written, by run."""

    def __post_init__(self) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401 (whether it can be)
        except ImportError as error:
            raise missing_extra("tensorboard") from error

    def write(self, curves: Curves, *, ended: bool) -> None:
        """See `Logger`."""
        place, last = self.folder / curves.run, max(curves.epochs, default=0)
        if curves.run not in self._epochs:
            if written(place) == last:
                self._epochs[curves.run] = last
            else:
                shutil.rmtree(place, ignore_errors=True)
                self._epochs[curves.run] = 0
        before = self._epochs[curves.run]
        new = {epoch: values for epoch, values in curves.epochs.items() if epoch > before}
        if new:
            writer = self._writer(curves.run)
            for epoch, values in new.items():
                for name, value in values.items():
                    writer.add_scalar(name, value, epoch)
            writer.flush()
            mark_written(place, last)
            self._epochs[curves.run] = last
        if ended and curves.run in self._writers:
            self._writers.pop(curves.run).close()

    def close(self) -> None:
        """See `Logger`."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _writer(self, run: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if run not in self._writers:
            self._writers[run] = SummaryWriter(str(self.folder / run))
        return self._writers[run]
