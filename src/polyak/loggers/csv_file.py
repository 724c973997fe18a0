"""Curves as a CSV file a run: out/logs/csv/<run>.csv, a line an epoch and a column a curve."""

from dataclasses import dataclass
from pathlib import Path

from polyak.files import write_csv
from polyak.loggers.curves import Curves


@dataclass(frozen=True, slots=True)
class CsvLogger:
    """Writes the whole file anew, so that no epoch can be in it twice."""

    folder: Path

    def write(self, curves: Curves, *, ended: bool) -> None:
        """See `Logger`."""
        names = list(dict.fromkeys(name for values in curves.epochs.values() for name in values))
        lines = (
            (epoch, *(values.get(name, "") for name in names))
            for epoch, values in curves.epochs.items()
        )
        write_csv(self.folder / f"{curves.run}.csv", ("epoch", *names), lines)

    def close(self) -> None:
        """See `Logger`."""
