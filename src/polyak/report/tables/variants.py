"""Appendix B's tables: every average at a rule's stop, with both kinds of statistics."""

from collections.abc import Sequence

from polyak.analysis.loaded import LoadedRow
from polyak.records.vocabulary import (
    AVERAGES_RULES,
    STATISTICS,
    Phase,
    Rule,
    Statistics,
    variant_name,
)
from polyak.report.facts import NOT_MEASURED
from polyak.report.names import RULE_NAMES, average_name
from polyak.report.paper.published import beside, numbers_for
from polyak.report.tables.cells import NOTHING, mean_cell, meaningful, missing_cell, paper_cell
from polyak.report.tables.measures import ACCURACY, CHURN, ECE, ECE_SCALED, LOSS, Measure
from polyak.report.tables.table import Cell, Column, Group, Line, Table, fit_columns

_SUFFIXES: dict[Statistics, str] = {"averaged": "", "recomputed": " + BN"}
_TWINS: dict[Rule, str] = {rule: f"ema_{rule}_bn" for rule in AVERAGES_RULES}
_MEASURES: dict[Phase, tuple[Measure, ...]] = {
    "search": (ACCURACY, LOSS, CHURN, ECE, ECE_SCALED),
    "refit": (ACCURACY, LOSS, CHURN, ECE),
}


def variants_table(rows: Sequence[LoadedRow], phase: Phase) -> Table:
    """All variants of all rows in one half of the appendix; the paper's beside its own four."""
    measures = meaningful(rows, _MEASURES[phase])
    in_paper = any(
        _papers(row, phase, arm, m).published
        for row in rows
        for m in measures
        for arm in _TWINS.values()
    )
    columns = []
    for m in measures:
        columns.append(Column(m.heading, m.unit))
        if in_paper:
            columns.append(Column(f"paper, {m.heading}", m.unit, paper=True))
    groups = [
        Group(
            row.label,
            tuple(
                _line(row, phase, (rule, average, statistics), measures, in_paper=in_paper)
                for rule in AVERAGES_RULES
                for statistics in STATISTICS
                for average in row.record.averages
            ),
        )
        for row in rows
    ]
    return Table(columns=fit_columns(columns, groups), groups=tuple(groups))


def _line(
    row: LoadedRow,
    phase: Phase,
    variant: tuple[Rule, str, Statistics],
    measures: Sequence[Measure],
    *,
    in_paper: bool,
) -> Line:
    rule, average, statistics = variant
    # The variant that the paper's tables have: the longest window, recomputed.
    longest = average == row.record.averages[-1] and statistics == "recomputed"
    cells = []
    for m in measures:
        found = row.variants.by_seed(phase=phase, arm=variant_name(*variant), metric=m.metric)
        cells.append(mean_cell(row, found, m) or _missing(row, phase))
        if in_paper:
            cells.append(_papers(row, phase, _TWINS[rule], m) if longest else NOTHING)
    label = f"{RULE_NAMES[rule]}{_SUFFIXES[statistics]}, {average_name(average)}"
    return Line(label, tuple(cells), longest)


def _papers(row: LoadedRow, phase: Phase, arm: str, m: Measure) -> Cell:
    numbers = numbers_for(row.record.dataset, row.record.architecture)
    return paper_cell(beside(numbers, phase=phase, arm=arm, metric=m.metric))


def _missing(row: LoadedRow, phase: Phase) -> Cell:
    cell = missing_cell(row, phase)
    if cell.text == NOT_MEASURED:
        return Cell(text="the run is older than this table", missing=True)
    return cell
