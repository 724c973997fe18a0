"""Tables with arms as lines: every cell is one number of the results, or says why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyak.analysis.loaded import LoadedRow
from polyak.records.vocabulary import BASELINE, EMA_ACC, EMA_ACC_BN, EMA_LOSS, EMA_LOSS_BN, Phase
from polyak.report.names import MORE_ARMS, arm_name, ordered
from polyak.report.numbers import joined
from polyak.report.paper.published import Published, beside, notes_on, numbers_for
from polyak.report.tables.cells import (
    NOTHING,
    difference_cell,
    digits_for,
    mean_cell,
    missing_cell,
    paper_cell,
)
from polyak.report.tables.measures import Measure
from polyak.report.tables.table import Cell, Column, Group, Line, Table, fit_columns

EMPHASISED = (BASELINE, EMA_ACC_BN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTableSpec:
    """Which numbers a table of arms shows."""

    phase: Phase
    measures: tuple[Measure, ...]
    arms: tuple[str, ...]
    target: str = "test"
    differences: bool = False
    """Add to each measure the paired difference from SGD."""

    def ours(self, row: LoadedRow, arm: str, measure: Measure) -> Mapping[str, float]:
        """Our numbers, by seed."""
        return row.results.by_seed(
            phase=self.phase, arm=arm, metric=measure.metric, target=self.target
        )

    def papers(self, row: LoadedRow, arm: str, measure: Measure) -> tuple[Published, ...]:
        """The paper's numbers, by version."""
        numbers = numbers_for(row.record.dataset, row.record.architecture)
        return beside(numbers, phase=self.phase, arm=arm, metric=measure.metric, target=self.target)


def arm_table(rows: Sequence[LoadedRow], spec: ArmTableSpec) -> Table:
    """Arms as lines, metrics as columns, the paper's numbers beside where it has any.

    Numbers are means over seeds ± standard deviation, over pairs of seeds the range.
    """
    in_paper = {
        measure.metric: any(spec.papers(row, arm, measure) for row in rows for arm in spec.arms)
        for measure in spec.measures
    }
    groups = [
        Group(
            row.label,
            tuple(_line(row, spec, arm, in_paper) for arm in spec.arms),
            _notes(row, spec),
        )
        for row in rows
    ]
    return Table(columns=fit_columns(_columns(spec, in_paper), groups), groups=tuple(groups))


def arms_in(rows: Sequence[LoadedRow], phase: Phase) -> list[str]:
    """The arms that any row has, in the page's order; the paper's five where none has any."""
    found = {r.arm for row in rows for r in row.results if r.phase == phase}
    usual = {BASELINE, EMA_ACC, EMA_LOSS, EMA_ACC_BN, EMA_LOSS_BN}
    return ordered(found or usual)


def _columns(spec: ArmTableSpec, in_paper: Mapping[str, bool]) -> tuple[Column, ...]:
    found = []
    for m in spec.measures:
        found.append(Column(m.heading, m.unit))
        if spec.differences:
            found.append(Column("against SGD", f"{m.difference_unit}, 95 % interval"))
        if in_paper[m.metric]:
            found.append(Column(f"paper, {m.heading}", m.unit, paper=True))
    return tuple(found)


def _line(row: LoadedRow, spec: ArmTableSpec, arm: str, in_paper: Mapping[str, bool]) -> Line:
    cells: list[Cell] = []
    for m in spec.measures:
        ours, sgd = (spec.ours(row, a, m) for a in (arm, BASELINE))
        cells.append(mean_cell(row, ours, m) or missing_cell(row, spec.phase))
        if spec.differences:
            of_itself = arm == BASELINE
            cells.append(
                NOTHING if of_itself else difference_cell(ours, sgd, m, digits=digits_for(row, m))
            )
        if in_paper[m.metric]:
            cells.append(paper_cell(spec.papers(row, arm, m)))
    badge = "not in the paper" if arm in MORE_ARMS else ""
    return Line(arm_name(arm), tuple(cells), arm in EMPHASISED, badge)


def _notes(row: LoadedRow, spec: ArmTableSpec) -> tuple[str, ...]:
    """That the paper has nothing on the row, or what to know of the numbers that it has."""
    dataset, architecture = row.record.dataset, row.record.architecture
    twins = [(arm, p) for arm in spec.arms for m in spec.measures for p in spec.papers(row, arm, m)]
    if not twins:
        what = "no such numbers" if numbers_for(dataset, architecture) else "no numbers"
        return (f"The paper has {what} for {dataset} with {architecture}.",)
    by_note: dict[str, list[str]] = {}
    for arm, p in twins:
        for note in notes_on(p):
            by_note.setdefault(note, []).append(arm_name(arm))
    return tuple(
        f"the paper’s {joined(list(dict.fromkeys(arms)))}: {note}" for note, arms in by_note.items()
    )
