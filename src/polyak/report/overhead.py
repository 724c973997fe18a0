"""The page of a measurement: what averages cost, beside what the paper says they cost."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from polyak.analysis.overhead import MIB, Median, Overhead, overheads
from polyak.files import replacing
from polyak.records.studies import MeasurementRecord
from polyak.records.timings import Timings
from polyak.report.numbers import number
from polyak.report.paper.published import key
from polyak.report.tables.table import Cell

PAPERS_PARAMETERS = 23_705_252
"""ResNet-50 with 100 classes: 23.7 M parameters, 90.43 MiB, which the paper prints as MB."""


ROUNDS_FOR_INTERVAL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadLine:
    """One bank."""

    heading: str
    cells: tuple[Cell, ...]


COLUMNS = (
    ("a step", "ms"),
    ("steps against no average", "ratio, 95 % interval"),
    ("evaluation", "ms a round"),
    ("both against no average", "ratio, 95 % interval"),
    ("both against plain steps", "ratio, 95 % interval"),
    ("storage", "MiB"),
)
"""Heading and unit."""


def lines(timings: Timings) -> list[OverheadLine]:
    """A line for each bank."""
    return [
        OverheadLine(heading=_heading(found), cells=_cells(found)) for found in overheads(timings)
    ]


def _heading(found: Overhead) -> str:
    if found.every is None:
        return "no average"
    averages = "1 average" if found.averages == 1 else f"{found.averages} averages"
    return f"{averages}, T = {found.every}"


def _cells(found: Overhead) -> tuple[Cell, ...]:
    plain = found.averages == 0
    return (
        _seconds(found.step),
        Cell(text="1") if plain else _ratio(found.steps_ratio),
        _seconds(found.evaluation),
        Cell(text="1") if plain else _ratio(found.epoch_ratio),
        _ratio(found.over_training),
        Cell(text=number(found.mib, 2)),
    )


def _seconds(median: Median) -> Cell:
    digits = 1 if median.value < 1 else 0
    return Cell(text=number(1e3 * median.value, digits))


def _ratio(median: Median) -> Cell:
    text = number(median.value, 3)
    if median.low is None or median.high is None:
        return Cell(text=text)
    return Cell(text=text, spread=f"[{number(median.low, 3)}, {number(median.high, 3)}]")


def claims(timings: Timings) -> list[tuple[str, str]]:
    """What the paper's section 3.1 says, and what was measured here."""
    found = {(o.averages, o.every): o for o in overheads(timings)}
    one = timings.parameters * 4 / MIB
    most = max((o for o in found.values()), key=lambda o: (o.averages, o.every or 0))
    least = max((o for o in found.values()), key=lambda o: (o.averages, -(o.every or 0)))
    return [
        (
            "“the optimization step remains the dominating factor”; several averages are “a tiny "
            "fraction of the computation time for small enough values (e.g., M = 5)”",
            f"Here {most.averages} averages change the time of the steps by "
            f"{_percent(most.steps_ratio)} with T = {most.every}, and by "
            f"{_percent(least.steps_ratio)} with T = {least.every}.",
        ),
        (
            "“possibly evaluating every epoch”",
            f"Scoring SGD and {most.averages} averages on the hold-out adds to an epoch of plain "
            f"steps {_percent(most.over_training)}, updates included; scoring SGD alone adds "
            f"{_percent(found[0, None].over_training)}. The paper gives no number for it.",
        ),
        (
            "“a ResNet-50 (23.7M parameters) requires 90.43 MB of storage”",
            f"{PAPERS_PARAMETERS:,} parameters of 4 bytes are "
            f"{PAPERS_PARAMETERS * 4 / MIB:.2f} MiB, so it counts parameters alone. This network "
            f"has {timings.parameters:,}: {one:.2f} MiB; an average holds BatchNorm’s statistics "
            f"too, {most.mib / most.averages:.2f} MiB.",
        ),
    ]


def _percent(ratio: Median) -> str:
    text = f"{number(100 * (ratio.value - 1), 1, signed=True)} %"
    if ratio.low is None or ratio.high is None:
        return text
    low, high = (number(100 * (end - 1), 1, signed=True) for end in (ratio.low, ratio.high))
    return f"{text} [{low}, {high}]"


def machine(timings: Timings) -> list[tuple[str, str]]:
    """Where and how it was measured."""
    clock = {
        "CPU": "CPU time of the process, time spent waiting excluded",
        "wall": "wall time, the device waited for",
    }
    rounds = len(timings.baseline.steps_seconds)
    return [
        ("seconds", clock[timings.clock]),
        (
            "a round",
            f"{timings.steps} steps of {timings.batch_size} images ({timings.train_images:,} in "
            f"all), then the hold-out of {timings.holdout_images:,}",
        ),
        ("rounds", f"{rounds}; in each every bank ran once, in an order drawn anew"),
        *((name, str(value)) for name, value in timings.environment.items()),
    ]


def notice(measured: MeasurementRecord, timings: Timings) -> list[str]:
    """What a reader must know before the numbers."""
    found = []
    if key(measured.architecture) != key("ResNet-18"):
        found.append(
            f"The network is {measured.architecture}; the paper trains ResNet-18 and larger. The "
            "smaller the network, the more the bookkeeping of averages weighs."
        )
    if timings.baseline.steps_seconds and len(timings.baseline.steps_seconds) < ROUNDS_FOR_INTERVAL:
        found.append(
            f"There are {len(timings.baseline.steps_seconds)} rounds; with fewer than "
            f"{ROUNDS_FOR_INTERVAL} a median has no interval."
        )
    return found


def write_rounds(path: Path, timings: Timings) -> None:
    """All rounds as CSV: what every number of the page comes from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["averages", "every", "round", "steps_seconds", "evaluation_seconds", "bytes"])
    for case in timings.cases:
        pairs = zip(case.steps_seconds, case.evaluation_seconds, strict=True)
        for i, (steps, evaluation) in enumerate(pairs, start=1):
            writer.writerow([case.averages, case.every, i, steps, evaluation, case.bytes])
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
