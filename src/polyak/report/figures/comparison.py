"""The figure of two ways to train: SGD and one average of each, with their learning rates."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from polyak.analysis.curves import CurvePoint, learning_curves, learning_rates
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord
from polyak.report.figures import style
from polyak.report.figures.chart import Chart, Panel, Series
from polyak.report.figures.series import legend_words, smooth_line
from polyak.report.figures.style import Style
from polyak.report.names import average_name
from polyak.report.tables.memorisation import figures_average

_STYLES = (
    (style.SGD, Style("#0072b2", width=2.2)),
    (Style("#e69f00", dash="dash", width=2.0), Style("#56b4e9", dash="dash", width=2.0)),
)
"""SGD and the average, of the first way and of the second."""

_RATES = (style.RATE, Style("#0072b2", dash="dash", width=1.4))

_PARTS = {
    "holdout": "hold-out accuracy (%)",
    "test": "test accuracy (%)",
    "train_clean": "right labels learnt (%)",
    "train_wrong": "wrong labels memorised (%)",
}


def compared_chart(
    out: Path,
    first: tuple[RowRecord, Mapping[str, str], str],
    second: tuple[RowRecord, Mapping[str, str], str],
    *,
    name: str,
    title: str,
) -> Chart | None:
    """The hold-out's curves, and those of every monitor that both have.

    Args:
        out: The output folder.
        first: A row, its runs by seed, and what to call them.
        second: The same of the other way.
        name: Stem of the chart's files.
        title: Its heading.

    Returns:
        None until both have a finished run.
    """
    sides = [
        (row, [r for r in runs.values() if run_folder(out, r).ending == "done"], words)
        for row, runs, words in (first, second)
    ]
    if not all(runs for _, runs, _ in sides):
        return None
    points = [learning_curves(out, runs) for _, runs, _ in sides]
    panels = [
        Panel(y_label=label, series=lines)
        for part, label in _PARTS.items()
        if (lines := _lines(sides, points, part))
    ]
    rates = tuple(
        Series(
            label=f"learning rate, {words}",
            x=tuple(float(epoch) for epoch, _ in found),
            y=tuple(rate for _, rate in found),
            style=drawn,
            in_legend=False,
        )
        for (_, runs, words), drawn in zip(sides, _RATES, strict=True)
        for found in [learning_rates(out, runs[0])]
    )
    panels.append(Panel(y_label="learning rate", series=rates))
    average = average_name(figures_average(first[0]))
    return Chart(
        name=name,
        subject=second[0].label,
        title=title,
        caption=f"SGD, and of the bank {average}, which stands for the paper’s EMA 0.992; means "
        "over seeds. The learning rate is the first seed’s.",
        legend=legend_words(points[0], part="holdout", banded=False),
        panels=tuple(panels),
        heights=(*(2.3 for _ in panels[1:]), 1.1),
    )


def _lines(
    sides: Sequence[tuple[RowRecord, Sequence[str], str]],
    points: Sequence[Sequence[CurvePoint]],
    part: str,
) -> tuple[Series, ...]:
    """SGD and the average of both; empty unless all four are there."""
    found = []
    for place, ((row, _, words), here) in enumerate(zip(sides, points, strict=True)):
        for kind, weights in enumerate(("sgd", figures_average(row))):
            label = "SGD" if weights == "sgd" else average_name(weights)
            found.append(
                smooth_line(
                    here,
                    weights,
                    part=part,
                    label=f"{label}, {words}",
                    drawn=_STYLES[kind][place],
                    width=1,
                )
            )
    return tuple(line for line in found if line) if all(found) else ()
