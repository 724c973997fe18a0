"""From results to tables: every cell is one number of the results, or says why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polyak.analysis.results import Phase, Result, values
from polyak.analysis.seeds import mean_interval, paired_difference
from polyak.records.studies import RowRecord
from polyak.report.facts import images_in_test, reason
from polyak.report.formatting import accuracy_digits, number
from polyak.report.paper import Published, beside, numbers_for
from polyak.report.words import arm_name, ordered

BASELINE = "sgd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A metric as a column."""

    metric: str
    heading: str
    unit: str
    scale: float = 1.0
    digits: int | None = 3
    """None: by the size of the test set."""

    difference: bool = False
    """Add a column with the paired difference from SGD."""


ACCURACY = Measure(metric="accuracy", heading="accuracy", unit="%", scale=100, digits=None)
LOSS = Measure(metric="loss", heading="loss", unit="nats")
ECE = Measure(metric="ece", heading="ECE", unit="%", scale=100, digits=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What stands in one place of a table."""

    text: str = ""
    spread: str = ""
    """Standard deviation, interval or range, beside the number."""

    published: tuple[tuple[str, str, str], ...] = ()
    """The paper's twins: text, version, note."""

    missing: bool = False
    """The text is a reason, not a number."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading with its unit."""

    heading: str
    unit: str = ""
    paper: bool = False
    spread_width: int = 0
    """Characters that the spreads of the column take, so that its numbers line up."""


@dataclass(frozen=True, slots=True)
class Line:
    """One model."""

    label: str
    cells: tuple[Cell, ...]
    emphasis: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """The lines of one row of the study."""

    label: str
    lines: tuple[Line, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the page."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]


def arm_table(
    out: Path,
    rows: Sequence[RowRecord],
    results: Sequence[Result],
    *,
    phase: Phase,
    measures: Sequence[Measure],
    arms: Sequence[str],
    target: str = "test",
    emphasis: Sequence[str] = ("sgd", "ema_acc_bn"),
) -> Table:
    """Arms as lines, metrics as columns, the paper's numbers beside where it has any.

    Numbers are means over seeds ± standard deviation (ddof 1), over pairs of seeds the range.
    """
    paper = {row.label: numbers_for(row.dataset, row.architecture) for row in rows}
    in_paper = {
        m.metric: any(
            beside(paper[row.label], phase=phase, arm=arm, metric=m.metric, target=target)
            for row in rows
            for arm in arms
        )
        for m in measures
    }
    groups = []
    for row in rows:
        digits = accuracy_digits(images_in_test(out, row) or 0)
        lines = []
        for arm in arms:
            cells: list[Cell] = []
            for m in measures:
                shown = digits if m.digits is None else m.digits
                ours, sgd = (
                    values(
                        results, row=row.label, arm=a, metric=m.metric, phase=phase, target=target
                    )
                    for a in (arm, BASELINE)
                )
                cells.append(_mean(ours, m, shown) or _reason(out, row, phase))
                if m.difference:
                    cells.append(_difference(ours, sgd, m, shown, baseline=arm == BASELINE))
                if in_paper[m.metric]:
                    twins = beside(
                        paper[row.label], phase=phase, arm=arm, metric=m.metric, target=target
                    )
                    cells.append(paper_cell(twins))
            lines.append(Line(arm_name(arm), tuple(cells), arm in emphasis))
        note = "" if paper[row.label] else no_paper(row)
        groups.append(Group(row.label, tuple(lines), note))
    columns = _columns(measures, in_paper)
    return Table(columns=_fitted(columns, groups), groups=tuple(groups))


def arms_in(results: Sequence[Result], phase: Phase) -> list[str]:
    """The arms that any row has, in the page's order; the paper's five where none has any."""
    found = {r.arm for r in results if r.phase == phase}
    usual = {"sgd", "ema_acc", "ema_loss", "ema_acc_bn", "ema_loss_bn"}
    return ordered(found or usual)


def no_paper(row: RowRecord) -> str:
    """The line that stands in for the paper's numbers."""
    return f"The paper has no numbers for {row.dataset} with {row.architecture}."


def paper_cell(twins: Sequence[Published]) -> Cell:
    """Published numbers as printed; one entry where both versions agree."""
    entries: list[tuple[str, str, str]] = []
    for p in twins:
        spread = "" if p.std is None else f" ± {_printed(p.std, p.metric)}"
        note = f"table {p.table}" + (f": {p.note}" if p.note else "")
        entries.append((_printed(p.value, p.metric) + spread, p.version, note))
    if len(entries) == 2 and _value(entries[0]) == _value(entries[1]):
        fuller = max(entries, key=lambda entry: len(entry[0]))
        notes = "; ".join(dict.fromkeys(entry[2] for entry in entries))
        entries = [(fuller[0], "both versions", notes)]
    return Cell(published=tuple(entries))


def _value(entry: tuple[str, str, str]) -> str:
    return entry[0].split(" ")[0]


def _printed(value: float, metric: str) -> str:
    return number(value, 3 if metric.startswith("js") else 2)


def _columns(measures: Sequence[Measure], in_paper: Mapping[str, bool]) -> tuple[Column, ...]:
    found = []
    for m in measures:
        found.append(Column(m.heading, m.unit))
        if m.difference:
            unit = "points" if m.unit == "%" else m.unit
            found.append(Column("against SGD", f"{unit}, 95 % interval"))
        if in_paper[m.metric]:
            found.append(Column(f"paper, {m.heading}", m.unit, paper=True))
    return tuple(found)


def _fitted(columns: Sequence[Column], groups: Sequence[Group]) -> tuple[Column, ...]:
    """The columns with room for their widest spread."""
    lines = [line for group in groups for line in group.lines]
    return tuple(
        replace(column, spread_width=max((len(line.cells[i].spread) for line in lines), default=0))
        for i, column in enumerate(columns)
    )


def _mean(found: Mapping[str, float], m: Measure, digits: int) -> Cell | None:
    if not found:
        return None
    interval = mean_interval(m.scale * value for value in found.values())
    text = number(interval.mean, digits)
    if interval.sd is None:
        return Cell(text=text)
    if any("-" in seed for seed in found):
        low, high = (
            number(m.scale * end, digits) for end in (min(found.values()), max(found.values()))
        )
        return Cell(text=text, spread=f"{low} – {high}")
    return Cell(text=text, spread=f"± {number(interval.sd, digits)}")


def _difference(
    ours: Mapping[str, float], sgd: Mapping[str, float], m: Measure, digits: int, *, baseline: bool
) -> Cell:
    shared = ours.keys() & sgd.keys()
    if baseline or not shared:
        return Cell(text="–")
    interval = paired_difference(*({int(s): v for s, v in side.items()} for side in (ours, sgd)))
    text = number(m.scale * interval.mean, digits, signed=True)
    if interval.low is None or interval.high is None:
        return Cell(text=text)
    low, high = (number(m.scale * end, digits) for end in (interval.low, interval.high))
    return Cell(text=text, spread=f"[{low}, {high}]")


def _reason(out: Path, row: RowRecord, phase: Phase) -> Cell:
    return Cell(text=reason(out, row, phase), missing=True)
