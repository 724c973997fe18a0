"""All tables of a page that the paper has no form for, by the section that shows them."""

from collections.abc import Sequence

from polyak.analysis.loaded import LoadedRow, LoadedStudy
from polyak.records.vocabulary import PROBED_ARMS, Phase
from polyak.report.paper.published import numbers_for
from polyak.report.tables.arms import ArmTableSpec, arm_table, arms_in
from polyak.report.tables.cells import meaningful, paper_cell
from polyak.report.tables.comparisons import against_table, budget_table
from polyak.report.tables.costs import cost_table
from polyak.report.tables.measures import (
    ACCURACY,
    BRIER,
    CHURN,
    CHURN_PARTS,
    ECE,
    ECE_FLOOR,
    ECE_SCALED,
    JS,
    JS_PAPER_CODE,
    LOSS,
    MEMORISED,
    TEMPERATURE,
    Measure,
    in_bits,
)
from polyak.report.tables.table import Cell, Table

CALIBRATION = (ACCURACY, ECE, ECE_FLOOR, TEMPERATURE, ECE_SCALED, BRIER)


def tables_of(study: LoadedStudy) -> dict[str, Table]:
    """Tables by section: generalisation, churn, churn_split, calibration, and, where the study has
    such runs, noise, budget, against and costs."""
    rows = study.rows
    of_text = (in_bits(LOSS),) if study.is_text else ()
    in_paper = any(numbers_for(row.record.dataset, row.record.architecture) for row in rows)
    coded = in_paper or any("js" in row.record.paper_code for row in rows)
    found = {
        "generalisation": _table(rows, "refit", (ACCURACY, LOSS, *of_text), differences=True),
        "churn": _table(rows, "refit", (CHURN, JS, *((JS_PAPER_CODE,) if coded else ()))),
        "churn_split": _table(rows, "refit", CHURN_PARTS),
        "calibration": _table(rows, "search", meaningful(rows, (*CALIBRATION, *of_text))),
    }
    more = {
        "noise": _noise(rows),
        "budget": budget_table(rows),
        "against": against_table(rows),
        "costs": cost_table(rows),
    }
    return found | {name: table for name, table in more.items() if table}


def transfer_tables(study: LoadedStudy) -> list[tuple[str, Table]]:
    """A table for each target of a linear probe."""
    targets = dict.fromkeys(target for row in study.rows for target in row.record.transfer)
    return [
        (
            target,
            arm_table(
                _aiming(study.rows, target),
                ArmTableSpec(
                    phase="transfer",
                    measures=(ACCURACY,),
                    arms=PROBED_ARMS,
                    target=target,
                    differences=True,
                ),
            ),
        )
        for target in targets
    ]


def other_methods(study: LoadedStudy) -> list[tuple[str, list[tuple[str, Cell]]]]:
    """What the paper quotes of other people's methods, for rows with wrong labels."""
    found = []
    for row in study.rows:
        known = numbers_for(row.record.dataset, row.record.architecture)
        numbers = [p for p in known if p.table == 2 and not p.arm]
        models = dict.fromkeys(p.model for p in numbers)
        if models:
            cells = [
                (model, paper_cell([p for p in numbers if p.model == model])) for model in models
            ]
            found.append((row.label, cells))
    return found


def _table(
    rows: Sequence[LoadedRow],
    phase: Phase,
    measures: tuple[Measure, ...],
    *,
    arms: Sequence[str] | None = None,
    differences: bool = False,
) -> Table:
    spec = ArmTableSpec(
        phase=phase,
        measures=measures,
        arms=tuple(arms or arms_in(rows, phase)),
        differences=differences,
    )
    return arm_table(rows, spec)


def _noise(rows: Sequence[LoadedRow]) -> Table | None:
    """Of the rows that have wrong labels; of their refits, or of searches that none follow."""
    noisy = [row for row in rows if any(r.metric == MEMORISED.metric for r in row.results)]
    if not noisy:
        return None
    phase: Phase = "refit" if any(row.record.refits for row in noisy) else "search"
    return _table(noisy, phase, (MEMORISED, ACCURACY), arms=arms_in(rows, phase))


def _aiming(rows: Sequence[LoadedRow], target: str) -> list[LoadedRow]:
    """Rows with a probe on the target, and those that may have lost theirs."""
    return [row for row in rows if target in row.record.transfer or not row.record.transfer]
