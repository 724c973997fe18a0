"""Appendix B's tables: every average at a rule's stop, with both kinds of statistics."""

from collections.abc import Sequence
from pathlib import Path

from polyak.analysis.results import Phase, Result, values
from polyak.analysis.variants import STATISTICS, variant_arm
from polyak.records.studies import RowRecord
from polyak.report.facts import images_in_test, reason
from polyak.report.names import average_name
from polyak.report.numbers import accuracy_digits
from polyak.report.paper.published import beside, numbers_for
from polyak.report.tables.arms import ACCURACY, ECE, LOSS, mean_cell, paper_cell
from polyak.report.tables.table import Cell, Column, Group, Line, Measure, Table, fitted

_RULES = {"acc": "EMA (acc.)", "loss": "EMA (loss)"}
_WORDS = {"averaged": "", "recomputed": " + BN"}
_CHURN = Measure(metric="churn", heading="churn", unit="%", scale=100, digits=1)
_SCALED = Measure(metric="ece_scaled", heading="ECE, scaled", unit="%", scale=100, digits=1)
_MEASURES: dict[Phase, tuple[Measure, ...]] = {
    "search": (ACCURACY, LOSS, _CHURN, ECE, _SCALED),
    "refit": (ACCURACY, LOSS, _CHURN, ECE),
}


def variants_table(
    out: Path, rows: Sequence[RowRecord], results: Sequence[Result], phase: Phase
) -> Table:
    """All variants of all rows in one half of the appendix; the paper's beside its own four."""
    measures = _MEASURES[phase]
    in_paper = any(
        _papers(row, phase, arm, m).published
        for row in rows
        for m in measures
        for arm in ("ema_acc_bn", "ema_loss_bn")
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
                _line(out, row, results, phase, rule, average, statistics, in_paper)
                for rule in _RULES
                for statistics in STATISTICS
                for average in row.averages
            ),
        )
        for row in rows
    ]
    return Table(columns=fitted(columns, groups), groups=tuple(groups))


def _line(
    out: Path,
    row: RowRecord,
    results: Sequence[Result],
    phase: Phase,
    rule: str,
    average: str,
    statistics: str,
    in_paper: bool,
) -> Line:
    arm = variant_arm(rule, average, statistics)
    twin = _twin(row, rule, average, statistics)
    cells = []
    for m in _MEASURES[phase]:
        found = values(results, row=row.label, arm=arm, metric=m.metric, phase=phase)
        digits = accuracy_digits(images_in_test(out, row) or 0) if m.digits is None else m.digits
        cells.append(mean_cell(row, found, m, digits) or _missing(out, row, phase))
        if in_paper:
            cells.append(_papers(row, phase, twin, m) if twin else Cell(text="–"))
    label = f"{_RULES[rule]}{_WORDS[statistics]}, {average_name(average)}"
    return Line(label, tuple(cells), twin is not None)


def _twin(row: RowRecord, rule: str, average: str, statistics: str) -> str | None:
    """The arm that the paper's tables have of this: the longest window, recomputed."""
    longest = average == row.averages[-1] and statistics == "recomputed"
    return f"ema_{rule}_bn" if longest else None


def _papers(row: RowRecord, phase: Phase, arm: str, m: Measure) -> Cell:
    numbers = numbers_for(row.dataset, row.architecture)
    return paper_cell(beside(numbers, phase=phase, arm=arm, metric=m.metric))


def _missing(out: Path, row: RowRecord, phase: Phase) -> Cell:
    why = reason(out, row, phase)
    if why == "not measured":
        why = "the run is older than this table"
    return Cell(text=why, missing=True)
