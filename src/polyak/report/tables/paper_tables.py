"""The paper's five tables as forms: which number stands where."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polyak.analysis.results import Phase, Result, values
from polyak.records.studies import RowRecord, StudyRecord
from polyak.report.departures import row_remark
from polyak.report.facts import NOT_MEASURED, images_in_test, reason
from polyak.report.numbers import accuracy_digits
from polyak.report.paper.published import Printed, beside, key, numbers_for, printed, published
from polyak.report.tables.arms import mean_cell
from polyak.report.tables.table import Cell, Form, FormGroup, FormLine, Measure, Place

ACCURACY = Measure(metric="accuracy", heading="acc.", unit="%", scale=100, digits=None)
LOSS = Measure(metric="loss", heading="loss", unit="nats", digits=2)
CHURN = Measure(metric="churn", heading="churn", unit="%", scale=100, digits=2)
JS = Measure(metric="js", heading="JS divergence", unit="nats", digits=4)
JS_AS_CODED = Measure(metric="js_paper_code", heading="“JS” as the authors code it", unit="")
ECE = Measure(metric="ece", heading="ECE", unit="%", scale=100, digits=2)
SCALED = Measure(metric="ece_scaled", heading="ECE with temperature", unit="%", scale=100, digits=2)
FLOOR = Measure(metric="ece_floor", heading="floor", unit="%", scale=100, digits=2)
_PAIRED = ("churn", "js", "js_paper_code")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which number of ours belongs in a place, and which of the paper's stands beside it."""

    table: int
    arm: str
    measure: Measure
    phase: Phase = "refit"
    target: str = "test"
    aside: Measure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A table with data set and architecture as lines."""

    table: int
    title: str
    caption: str
    groups: tuple[tuple[str, tuple[tuple[str, Asked], ...]], ...]
    """Heading, and under it column headings with what stands in them."""


def _by_arm(*arms: tuple[str, str], measures: tuple[Measure, ...]) -> Layout:
    groups = tuple(
        (
            heading,
            tuple((_unit(m), Asked(table=1, arm=arm, measure=m)) for m in measures),
        )
        for heading, arm in arms
    )
    swa = ("SWA", ((_unit(ACCURACY), Asked(table=1, arm="swa_bn", measure=ACCURACY)),))
    return Layout(
        table=1,
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
                    Asked(
                        table=table,
                        arm=arm,
                        measure=m,
                        phase=phase,
                        aside=FLOOR if m is ECE else None,
                    ),
                )
                for heading, arm in zip(("Baseline", "EMA (loss)"), arms, strict=True)
            ),
        )
        for m in measures
    )
    return Layout(table=table, title=title, caption=caption, groups=groups)


def _unit(m: Measure) -> str:
    return f"{m.heading} ({m.unit})" if m.unit else m.heading


LAYOUTS = {
    1: _by_arm(
        ("Baseline", "sgd"),
        ("EMA (acc.)", "ema_acc_bn"),
        ("EMA (loss)", "ema_loss_bn"),
        measures=(ACCURACY, LOSS),
    ),
    3: _by_measure(
        3,
        "refit",
        ("sgd", "ema_loss_bn"),
        (ACCURACY, CHURN, JS, JS_AS_CODED),
        title="Prediction disagreement",
        caption="Churn and Jensen-Shannon divergence between runs that differ by their seed, means "
        "over pairs; beside ours the lowest and highest pair.",
    ),
    5: _by_measure(
        5,
        "search",
        ("sgd_stopped", "ema_loss_bn"),
        (ACCURACY, ECE, SCALED),
        title="Calibration",
        caption="Models of the search (80 % of the training data), SGD at its best hold-out epoch; "
        "one temperature fitted on the hold-out. The floor is the ECE that a perfectly calibrated "
        "model with the same confidences has by chance.",
    ),
}


def preset_of(name: str) -> str | None:
    """Which table, figure or appendix of the paper a study is for, by its name.

    Example:
        >>> preset_of("table1"), preset_of("app-e2-tiny"), preset_of("demo")
        ('table1', 'app-e2', None)
    """
    found = re.match(r"(table[1-5]|figure[12]|app-(?:[abcdg]|e[12]))(?![0-9a-z])", name)
    return found[1] if found else None


def by_row(out: Path, study: StudyRecord, results: Sequence[Result], layout: Layout) -> Form:
    """A table whose lines are the rows of the study, with those that the paper quotes below."""
    asked = [a for _, columns in layout.groups for _, a in columns]
    lines = []
    for row in study.rows:
        known = bool(numbers_for(row.dataset, row.architecture))
        lines.append(
            FormLine(
                heads=(row.dataset, row.architecture),
                places=tuple(place(out, row, results, a, known=known) for a in asked),
                remark=row_remark(out, row),
            )
        )
    lines += _unmatched(study, layout)
    return Form(
        table=layout.table,
        title=layout.title,
        caption=layout.caption,
        stubs=("data set", "architecture"),
        groups=tuple(
            FormGroup(heading=heading, columns=tuple(text for text, _ in columns))
            for heading, columns in layout.groups
        ),
        lines=tuple(lines),
    )


def _unmatched(study: StudyRecord, layout: Layout) -> list[FormLine]:
    """The paper's rows that the study has no twin of, such as its networks at a smaller scale."""
    asked = [a for _, columns in layout.groups for _, a in columns]
    here = {(key(row.dataset), key(row.architecture)) for row in study.rows}
    lines = []
    for dataset, architecture in dict.fromkeys(
        (p.dataset, p.architecture) for p in published() if p.table == layout.table and p.arm
    ):
        if (key(dataset), key(architecture)) not in here:
            places = (papers(dataset, architecture, a) for a in asked)
            lines.append(
                FormLine(
                    heads=(dataset, architecture),
                    places=tuple(
                        Place(paper=found, nothing="" if found else "none in the paper")
                        for found in places
                    ),
                    remark="the paper’s alone, not in this study",
                )
            )
    return lines


def papers(dataset: str, architecture: str, asked: Asked) -> tuple[Printed, ...]:
    """What the paper has in a place."""
    return printed(
        beside(
            numbers_for(dataset, architecture),
            phase=asked.phase,
            arm=asked.arm,
            metric=asked.measure.metric,
            target=asked.target,
            table=asked.table,
        )
    )


def place(
    out: Path, row: RowRecord, results: Sequence[Result], asked: Asked, *, known: bool = True
) -> Place:
    """Our number, or the reason why there is none, and the paper's."""
    found = papers(row.dataset, row.architecture, asked)
    return Place(
        ours=_ours(out, row, results, asked, asked.measure),
        aside=_aside(out, row, results, asked),
        paper=found,
        nothing="" if found or not known else "none in the paper",
    )


def _aside(out: Path, row: RowRecord, results: Sequence[Result], asked: Asked) -> str:
    if asked.aside is None:
        return ""
    cell = _ours(out, row, results, asked, asked.aside)
    return "" if cell.missing else f"{asked.aside.heading} {cell.text}"


def _ours(
    out: Path, row: RowRecord, results: Sequence[Result], asked: Asked, measure: Measure
) -> Cell:
    found = values(
        results,
        row=row.label,
        arm=asked.arm,
        metric=measure.metric,
        phase=asked.phase,
        target=asked.target,
    )
    by_size = accuracy_digits(images_in_test(out, row) or 0)
    cell = mean_cell(row, found, measure, by_size if measure.digits is None else measure.digits)
    if cell is not None:
        return cell
    why = reason(out, row, asked.phase)
    if why == NOT_MEASURED and measure.metric in _PAIRED and len(row.seeds) < 2:
        why = "needs two seeds"
    if why == NOT_MEASURED and asked.arm == "swa_bn":
        why = "no SWA was run"
    return Cell(text=why, missing=True)
