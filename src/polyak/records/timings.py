"""What a measurement of overhead leaves: timings.json, one case for each bank that was tried."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polyak.errors import FileError
from polyak.records.checked import read_checked, write_checked
from polyak.records.vocabulary import RUN_AGAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One bank beside the training loop, timed round by round."""

    averages: int
    """M; 0 is training without any."""

    every: int | None
    """T, steps per update; None where there is no average."""

    steps_seconds: tuple[float, ...]
    """Of the steps of each round."""

    evaluation_seconds: tuple[float, ...]
    """Of scoring SGD and every average on the hold-out, once a round."""

    bytes: int
    """What the averages hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """All cases of one measurement; in each round all of them ran, in an order drawn anew."""

    cases: tuple[Timing, ...]
    clock: str
    """What the seconds are: "CPU" of one process, or "wall"."""

    steps: int
    """Of a round."""

    batch_size: int
    train_images: int
    holdout_images: int
    parameters: int
    """Numbers in the network's parameters, whatever their dtype."""

    environment: Mapping[str, Any]
    """Machine, threads, torch."""

    @property
    def baseline(self) -> Timing:
        """Training without averages."""
        return next(case for case in self.cases if case.averages == 0)


def write_timings(path: Path, timings: Timings) -> None:
    """Write timings.json."""
    write_checked(path, asdict(timings))


def read_timings(path: Path) -> Timings:
    """Read what `write_timings` wrote.

    Raises:
        FileError: if it is missing or damaged.
    """
    try:
        values = read_checked(path)
        cases = tuple(_timing(case) for case in values.pop("cases"))
        return Timings(cases=cases, **values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); expected the timings of a measurement. {RUN_AGAIN}"
        ) from error


def _timing(values: dict[str, Any]) -> Timing:
    for name in ("steps_seconds", "evaluation_seconds"):
        values[name] = tuple(values[name])
    return Timing(**values)
