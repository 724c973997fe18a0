"""The map: fit against turnover, and at each place what the stopped average gained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from polyak.report.figures.style import GRID, INK, MUTED
from polyak.report.figures.svg import SETTINGS

PANELS = (
    ("loss", -1.0, 3, "Loss, nats"),
    ("accuracy", 100.0, 1, "Accuracy, points"),
)
"""Metric, what makes a gain positive and in its unit, digits, title."""

TURNOVERS = (0.3, 1, 3, 10, 30)
UNFITTED = (1, 2, 5, 10, 20, 40)
PAYS, COSTS = "#0072b2", "#d55e00"


def draw(path: Path, cells: Sequence[Any], older: Sequence[Any]) -> None:
    """The map's cells as circles, older studies as squares, with wrong labels as triangles."""
    with rc_context(SETTINGS):
        figure = Figure(figsize=(9.0, 5.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, panel in zip((left, right), PANELS, strict=True):
            _panel(axes, cells, older, *panel)
        left.set_ylabel("training images that SGD has wrong in its last epoch, %")
        figure.suptitle("What EMA (acc.) + BN gains over SGD annealed in its epochs", fontsize=10)
        figure.supxlabel("turnover: how often weight decay renews the weights in a run", fontsize=9)
        path.write_text("")
        FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})


def _panel(
    axes: Axes,
    cells: Sequence[Any],
    older: Sequence[Any],
    metric: str,
    scale: float,
    digits: int,
    title: str,
) -> None:
    """One metric: area is the gain's size, colour its sign, and the number stands beside."""
    most = max(abs(scale * place.early(metric)[0]) for place in cells)
    for place in (*cells, *older):
        gain = scale * place.early(metric)[0]
        marker = "o" if place in cells else "^" if place.wrong else "s"
        unfitted = 100 * (1 - place.fit)
        axes.scatter(
            place.turnover,
            unfitted,
            s=12 + 500 * min(1.0, abs(gain) / most),
            marker=marker,
            color=PAYS if gain > 0 else COSTS,
            alpha=0.85 if place in cells else 0.45,
            linewidths=0,
        )
        axes.annotate(
            f"{round(gain, digits) + 0.0:+.{digits}f}".replace("-", "−"),
            (place.turnover, unfitted),
            xytext=(9, 5),
            textcoords="offset points",
            fontsize=8 if place in cells else 7,
            color=INK if place in cells else MUTED,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, marks in ((axes.xaxis, TURNOVERS), (axes.yaxis, UNFITTED)):
        axis.set_major_locator(FixedLocator(marks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.set_xlim(0.2, 80)
    axes.set_axisbelow(True)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_title(title)
