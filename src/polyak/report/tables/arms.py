"""From results to tables: every cell is one number of the results, or says why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyak.analysis.results import Phase, Result, values
from polyak.analysis.seeds import Interval, mean_interval, paired_difference
from polyak.records.studies import RowRecord
from polyak.report.facts import images_in_test, reason
from polyak.report.names import MORE_ARMS, arm_name, ordered
from polyak.report.numbers import accuracy_digits, joined, number
from polyak.report.paper.published import Published, beside, notes_on, numbers_for, printed
from polyak.report.tables.table import Cell, Column, Group, Line, Measure, Table, fitted

BASELINE = "sgd"
EMPHASISED = (BASELINE, "ema_acc_bn")
ACCURACY = Measure(metric="accuracy", heading="accuracy", unit="%", scale=100, digits=None)
LOSS = Measure(metric="loss", heading="loss", unit="nats")
ECE = Measure(metric="ece", heading="ECE", unit="%", scale=100, digits=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a table asks of the results."""

    phase: Phase
    measures: tuple[Measure, ...]
    arms: tuple[str, ...]
    target: str = "test"

    def ours(
        self, results: Sequence[Result], row: RowRecord, arm: str, measure: Measure
    ) -> dict[str, float]:
        """Our numbers, by seed."""
        return values(
            results,
            row=row.label,
            arm=arm,
            metric=measure.metric,
            phase=self.phase,
            target=self.target,
        )

    def papers(self, row: RowRecord, arm: str, measure: Measure) -> tuple[Published, ...]:
        """The paper's numbers, by version."""
        numbers = numbers_for(row.dataset, row.architecture)
        return beside(numbers, phase=self.phase, arm=arm, metric=measure.metric, target=self.target)


def arm_table(
    out: Path, rows: Sequence[RowRecord], results: Sequence[Result], asked: Question
) -> Table:
    """Arms as lines, metrics as columns, the paper's numbers beside where it has any.

    Numbers are means over seeds ± standard deviation, over pairs of seeds the range.
    """
    in_paper = {
        measure.metric: any(asked.papers(row, arm, measure) for row in rows for arm in asked.arms)
        for measure in asked.measures
    }
    groups = [
        Group(
            row.label,
            tuple(_line(out, row, results, asked, arm, in_paper) for arm in asked.arms),
            _notes(row, asked),
        )
        for row in rows
    ]
    return Table(columns=fitted(_columns(asked.measures, in_paper), groups), groups=tuple(groups))


def arms_in(results: Sequence[Result], phase: Phase) -> list[str]:
    """The arms that any row has, in the page's order; the paper's five where none has any."""
    # Variants have dots in their names, and a table of their own.
    found = {r.arm for r in results if r.phase == phase and "." not in r.arm}
    usual = {"sgd", "ema_acc", "ema_loss", "ema_acc_bn", "ema_loss_bn"}
    return ordered(found or usual)


def paper_cell(twins: Sequence[Published]) -> Cell:
    """Published numbers as printed; one entry where both versions agree."""
    return Cell(published=tuple((p.text, p.version, p.source) for p in printed(twins)))


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


def mean_cell(row: RowRecord, found: Mapping[str, float], m: Measure, digits: int) -> Cell | None:
    """Mean over seeds ± standard deviation, over pairs their range; None without a number."""
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
    return Cell(text=text, spread=f"± {number(sd_of(row, interval) or 0.0, digits)}")


def sd_of(row: RowRecord, interval: Interval) -> float | None:
    """Standard deviation over seeds, with ddof 0 where a row does as the authors' code does."""
    return interval.sd_paper_code if "sd" in row.paper_code else interval.sd


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


def _line(
    out: Path,
    row: RowRecord,
    results: Sequence[Result],
    asked: Question,
    arm: str,
    in_paper: Mapping[str, bool],
) -> Line:
    by_size = accuracy_digits(images_in_test(out, row) or 0)
    cells: list[Cell] = []
    for m in asked.measures:
        digits = by_size if m.digits is None else m.digits
        ours, sgd = (asked.ours(results, row, a, m) for a in (arm, BASELINE))
        cells.append(mean_cell(row, ours, m, digits) or _reason(out, row, asked.phase))
        if m.difference:
            cells.append(_difference(ours, sgd, m, digits, baseline=arm == BASELINE))
        if in_paper[m.metric]:
            cells.append(paper_cell(asked.papers(row, arm, m)))
    badge = "not in the paper" if arm in MORE_ARMS else ""
    return Line(arm_name(arm), tuple(cells), arm in EMPHASISED, badge)


def _notes(row: RowRecord, asked: Question) -> tuple[str, ...]:
    """That the paper has nothing on the row, or what to know of the numbers that it has."""
    twins = [
        (arm, p) for arm in asked.arms for m in asked.measures for p in asked.papers(row, arm, m)
    ]
    if not twins:
        known = numbers_for(row.dataset, row.architecture)
        what = "no such numbers" if known else "no numbers"
        return (f"The paper has {what} for {row.dataset} with {row.architecture}.",)
    by_note: dict[str, list[str]] = {}
    for arm, p in twins:
        for note in notes_on(p):
            by_note.setdefault(note, []).append(arm_name(arm))
    return tuple(
        f"the paper’s {joined(list(dict.fromkeys(arms)))}: {note}" for note, arms in by_note.items()
    )


def _reason(out: Path, row: RowRecord, phase: Phase) -> Cell:
    return Cell(text=reason(out, row, phase), missing=True)
