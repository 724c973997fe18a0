"""The figure of two ways to train: SGD and one average of each, with their learning rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyak.analysis.curves import CurvePoint, learning_curves, learning_rates
from polyak.analysis.loaded import LoadedRow, LoadedRun
from polyak.records.vocabulary import BASELINE
from polyak.report.figures import style
from polyak.report.figures.chart import Chart, Panel, Series
from polyak.report.figures.series import legend_words, smoothed_series
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One of two ways to train."""

    row: LoadedRow
    runs: Mapping[str, LoadedRun]
    """By seed; those that are finished."""

    words: str
    """What to call it."""


def compared_chart(first: Way, second: Way, *, name: str, title: str) -> Chart | None:
    """The hold-out's curves, and those of every monitor that both have.

    Args:
        first: One way.
        second: The other; the figure is about its row.
        name: Stem of the chart's files.
        title: Its heading.

    Returns:
        None until both have a finished run.
    """
    ways = (first, second)
    if not all(way.runs for way in ways):
        return None
    points = [learning_curves(run.log for run in way.runs.values()) for way in ways]
    panels = [
        Panel(y_label=label, series=series)
        for part, label in _PARTS.items()
        if (series := _of_part(ways, points, part))
    ]
    panels.append(Panel(y_label="learning rate", series=_rates(ways)))
    average = average_name(figures_average(first.row.record))
    return Chart(
        name=name,
        subject=second.row.label,
        title=title,
        caption=f"SGD, and of the bank {average}, which stands for the paper’s EMA 0.992; means "
        "over seeds. The learning rate is the first seed’s.",
        legend=legend_words(points[0], part="holdout", banded=False),
        panels=tuple(panels),
        heights=(*(2.3 for _ in panels[1:]), 1.1),
    )


def _rates(ways: Sequence[Way]) -> tuple[Series, ...]:
    found = []
    for way, drawn in zip(ways, _RATES, strict=True):
        rates = learning_rates(next(iter(way.runs.values())).log)
        found.append(
            Series(
                label=f"learning rate, {way.words}",
                x=tuple(float(epoch) for epoch, _ in rates),
                y=tuple(rate for _, rate in rates),
                style=drawn,
                in_legend=False,
            )
        )
    return tuple(found)


def _of_part(
    ways: Sequence[Way], points: Sequence[Sequence[CurvePoint]], part: str
) -> tuple[Series, ...]:
    """SGD and the average of both; empty unless all four are there."""
    found = []
    for place, (way, here) in enumerate(zip(ways, points, strict=True)):
        for kind, weights in enumerate((BASELINE, figures_average(way.row.record))):
            label = "SGD" if weights == BASELINE else average_name(weights)
            found.append(
                smoothed_series(
                    here,
                    weights,
                    part=part,
                    label=f"{label}, {way.words}",
                    drawn=_STYLES[kind][place],
                    width=1,
                )
            )
    return tuple(series for series in found if series) if all(found) else ()
