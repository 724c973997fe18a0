"""The main differences of a page: averages against every SGD that was as well to be had."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from polyak.analysis.loaded import LoadedRow
from polyak.analysis.seeds import Interval, paired_difference
from polyak.records.vocabulary import (
    BASELINE,
    EMA_ACC_BN,
    SGD_BN,
    SGD_STOPPED,
    SGD_STOPPED_BN,
    SWA_BN,
    Phase,
)
from polyak.report.figures import style
from polyak.report.names import arm_name
from polyak.report.numbers import joined, number
from polyak.report.tables.cells import digits_for
from polyak.report.tables.measures import ACCURACY, LOSS, Measure

_MANY_ROWS = 3
_BETTER = {"accuracy": "right: the average is better", "loss": "left: the average is better"}
_OURS = ((EMA_ACC_BN, style.ARMS[1]), (SWA_BN, style.ARMS[2]))
"""The paper's average and its plainest rival, and how each is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An average minus an SGD, paired by seed."""

    group: str
    """What is compared: the average, and of several rows which."""

    label: str
    """With what."""

    drawn: style.Style
    interval: Interval
    """In the unit of the plot."""

    digits: int

    @property
    def text(self) -> str:
        """The difference in figures."""
        found = self.interval
        mean = number(found.mean, self.digits, signed=True)
        if found.low is None or found.high is None:
            return mean
        low, high = (number(end, self.digits) for end in (found.low, found.high))
        return f"{mean} [{low}, {high}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """A forest plot: a line for each comparison, one below the other."""

    name: str
    """Stem of its files."""

    title: str
    unit: str
    better: str
    """Which side of 0 is the average's."""

    lines: tuple[Line, ...]

    @property
    def seeds(self) -> str:
        """How many seeds a line is of."""
        return joined([str(n) for n in sorted({line.interval.n for line in self.lines})])

    @property
    def alternative(self) -> str:
        """All that the plot shows, in words."""
        told = "; ".join(f"{line.group} minus {line.label}: {line.text}" for line in self.lines)
        return f"{self.title} in {self.unit}, mean over seeds and 95 % interval. {told}."


def main_differences(rows: Sequence[LoadedRow]) -> list[Differences]:
    """Accuracy and loss of averages against every SGD that was just as well to be had.

    Pages of many rows leave out SGD that was stopped, for room.
    """
    found = []
    for measure in (ACCURACY, LOSS):
        lines = tuple(line for row in rows for line in _of_row(row, measure, len(rows)))
        if lines:
            found.append(
                Differences(
                    name=f"differences-{measure.metric}",
                    title=f"Differences of test {measure.heading}",
                    unit=measure.difference_unit,
                    better=_BETTER[measure.metric],
                    lines=lines,
                )
            )
    return found


def _of_row(row: LoadedRow, measure: Measure, rows: int) -> Iterator[Line]:
    phase = row.record.judged
    stopped = (SGD_STOPPED, SGD_STOPPED_BN) if rows < _MANY_ROWS else ()
    rivals: list[tuple[Phase, str, str]] = [
        (phase, arm, arm_name(arm)) for arm in (BASELINE, SGD_BN, *stopped)
    ]
    rivals += [
        ("annealed", arm, arm_name(arm).replace("SGD", "SGD annealed early"))
        for arm in (BASELINE, SGD_BN)
    ]
    for ours, drawn in _OURS:
        mine = row.results.by_seed(phase=phase, arm=ours, metric=measure.metric)
        for of, arm, label in rivals:
            theirs = row.results.by_seed(phase=of, arm=arm, metric=measure.metric)
            if mine.keys() & theirs.keys():
                yield Line(
                    group=arm_name(ours) if rows == 1 else f"{row.label}: {arm_name(ours)}",
                    label=label,
                    drawn=drawn,
                    interval=paired_difference(_scaled(mine, measure), _scaled(theirs, measure)),
                    digits=digits_for(row, measure),
                )


def _scaled(by_seed: Mapping[str, float], measure: Measure) -> dict[int, float]:
    return {int(seed): measure.scale * value for seed, value in by_seed.items()}
