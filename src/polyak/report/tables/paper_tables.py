"""The paper's tables in its own form: which number stands where."""

from dataclasses import dataclass

from polyak.analysis.loaded import LoadedRow, LoadedStudy
from polyak.records.vocabulary import (
    BASELINE,
    EMA_ACC_BN,
    EMA_LOSS_BN,
    SGD_STOPPED,
    SWA_BN,
    Phase,
)
from polyak.report.departures import row_remark
from polyak.report.facts import NOT_MEASURED, reason
from polyak.report.paper.published import (
    Printed,
    beside,
    key,
    merge_versions,
    numbers_for,
    published,
)
from polyak.report.tables.cells import mean_cell
from polyak.report.tables.measures import (
    ACCURACY,
    CHURN,
    ECE,
    ECE_FLOOR,
    ECE_SCALED,
    JS,
    JS_PAPER_CODE,
    LOSS,
    OF_PAIRS,
    Measure,
    as_printed,
)
from polyak.report.tables.table import Cell, ColumnGroup, PaperCell, PaperLine, PaperTable


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSpec:
    """Which number of ours belongs in a cell, and which of the paper's stands beside it."""

    table: int
    arm: str
    measure: Measure
    phase: Phase = "refit"
    target: str = "test"
    with_floor: bool = False
    """Say beside it what a perfectly calibrated model would have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A table with data set and architecture as lines."""

    number: int
    title: str
    caption: str
    groups: tuple[tuple[str, tuple[tuple[str, CellSpec], ...]], ...]
    """Heading, and under it column headings with what stands in them."""

    @property
    def specs(self) -> list[CellSpec]:
        """What stands in a line, from left to right."""
        return [spec for _, columns in self.groups for _, spec in columns]


def _by_arm(*arms: tuple[str, str], measures: tuple[Measure, ...]) -> Layout:
    groups = tuple(
        (
            heading,
            tuple((_unit(m), CellSpec(table=1, arm=arm, measure=m)) for m in measures),
        )
        for heading, arm in arms
    )
    swa = ("SWA", ((_unit(ACCURACY), CellSpec(table=1, arm=SWA_BN, measure=ACCURACY)),))
    return Layout(
        number=1,
        title="Generalisation",
        caption="Test accuracy and loss of SGD after its last epoch and of its averages, stopped "
        "at the best accuracy or the lowest loss of the hold-out, BatchNorm statistics recomputed "
        "once.",
        groups=(*groups, swa),
    )


def _by_measure(
    table: int,
    phase: Phase,
    arms: tuple[str, str],
    measures: tuple[Measure, ...],
    *,
    title: str,
    caption: str,
) -> Layout:
    groups = tuple(
        (
            _unit(m),
            tuple(
                (
                    heading,
                    CellSpec(
                        table=table,
                        arm=arm,
                        measure=m,
                        phase=phase,
                        with_floor=m is ECE,
                    ),
                )
                for heading, arm in zip(("Baseline", "EMA (loss)"), arms, strict=True)
            ),
        )
        for m in measures
    )
    return Layout(number=table, title=title, caption=caption, groups=groups)


def _unit(m: Measure) -> str:
    return f"{m.heading} ({m.unit})" if m.unit else m.heading


LAYOUTS = {
    1: _by_arm(
        ("Baseline", BASELINE),
        ("EMA (acc.)", EMA_ACC_BN),
        ("EMA (loss)", EMA_LOSS_BN),
        measures=(ACCURACY, LOSS),
    ),
    3: _by_measure(
        3,
        "refit",
        (BASELINE, EMA_LOSS_BN),
        (ACCURACY, CHURN, JS, JS_PAPER_CODE),
        title="Prediction disagreement",
        caption="Churn and Jensen-Shannon divergence between runs that differ by their seed, means "
        "over pairs; beside ours the lowest and highest pair.",
    ),
    5: _by_measure(
        5,
        "search",
        (SGD_STOPPED, EMA_LOSS_BN),
        (ACCURACY, ECE, ECE_SCALED),
        title="Calibration",
        caption="Models of the search (80 % of the training data), SGD at its best hold-out epoch; "
        "one temperature fitted on the hold-out. The floor is the ECE that a perfectly calibrated "
        "model with the same confidences has by chance.",
    ),
}


def by_row(study: LoadedStudy, layout: Layout) -> PaperTable:
    """A table whose lines are the rows of the study, with those that the paper quotes below."""
    lines = []
    for row in study.rows:
        known = bool(numbers_for(row.record.dataset, row.record.architecture))
        lines.append(
            PaperLine(
                heads=(row.record.dataset, row.record.architecture),
                cells=tuple(cell_of(row, spec, known=known) for spec in layout.specs),
                remark=row_remark(row),
            )
        )
    lines += _unmatched(study, layout)
    return PaperTable(
        number=layout.number,
        title=layout.title,
        caption=layout.caption,
        stubs=("data set", "architecture"),
        groups=tuple(
            ColumnGroup(heading=heading, columns=tuple(text for text, _ in columns))
            for heading, columns in layout.groups
        ),
        lines=tuple(lines),
    )


def _unmatched(study: LoadedStudy, layout: Layout) -> list[PaperLine]:
    """The paper's rows that the study has no twin of, such as its networks at a smaller scale."""
    here = {(key(row.record.dataset), key(row.record.architecture)) for row in study.rows}
    lines = []
    for dataset, architecture in dict.fromkeys(
        (p.dataset, p.architecture) for p in published() if p.table == layout.number and p.arm
    ):
        if (key(dataset), key(architecture)) not in here:
            twins = (papers(dataset, architecture, spec) for spec in layout.specs)
            lines.append(
                PaperLine(
                    heads=(dataset, architecture),
                    cells=tuple(
                        PaperCell(paper=found, nothing="" if found else "none in the paper")
                        for found in twins
                    ),
                    remark="the paper’s alone, not in this study",
                )
            )
    return lines


def papers(dataset: str, architecture: str, spec: CellSpec) -> tuple[Printed, ...]:
    """What the paper has in a cell."""
    return merge_versions(
        beside(
            numbers_for(dataset, architecture),
            phase=spec.phase,
            arm=spec.arm,
            metric=spec.measure.metric,
            target=spec.target,
            table=spec.table,
        )
    )


def cell_of(row: LoadedRow, spec: CellSpec, *, known: bool = True) -> PaperCell:
    """Our number, or the reason why there is none, and the paper's."""
    found = papers(row.record.dataset, row.record.architecture, spec)
    return PaperCell(
        ours=_ours(row, spec, spec.measure),
        aside=_aside(row, spec),
        paper=found,
        nothing="" if found or not known else "none in the paper",
    )


def _aside(row: LoadedRow, spec: CellSpec) -> str:
    if not spec.with_floor:
        return ""
    cell = _ours(row, spec, ECE_FLOOR)
    return "" if cell.missing else f"floor {cell.text}"


def _ours(row: LoadedRow, spec: CellSpec, measure: Measure) -> Cell:
    found = row.results.by_seed(
        phase=spec.phase, arm=spec.arm, metric=measure.metric, target=spec.target
    )
    cell = mean_cell(row, found, as_printed(measure))
    if cell is not None:
        return cell
    why = reason(row, spec.phase)
    if why == NOT_MEASURED and measure.metric in OF_PAIRS and len(row.record.seeds) < 2:
        why = "needs two seeds"
    if why == NOT_MEASURED and spec.arm == SWA_BN:
        why = "no SWA was run"
    return Cell(text=why, missing=True)
