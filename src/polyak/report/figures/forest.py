"""A forest plot of differences, narrow enough for a telephone: words stand above each line."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polyak.files import write_csv
from polyak.report.figures import style
from polyak.report.figures.differences import Differences, Line
from polyak.report.figures.svg import MARKERS, SETTINGS, plain, save

WIDTH_INCHES = 4.0
"""384 pixels: legible without zooming where a page is 420 wide."""

_LINE_INCHES = 0.36
_HEAD = 0.8
"""Room for the name of a group, in lines."""

_BELOW_INCHES, _ABOVE_INCHES = 0.5, 0.05
HEADS = ("average", "against", "mean", "low", "high", "seeds", "unit")


def write_forest(plot: Differences, folder: Path) -> None:
    """Write the plot as SVG and its numbers as CSV."""
    save(draw_forest(plot), folder / f"{plot.name}.svg")
    numbers = ((line, line.interval) for line in plot.lines)
    write_csv(
        folder / f"{plot.name}.csv",
        HEADS,
        ((x.group, x.label, i.mean, i.low, i.high, i.n, plot.unit) for x, i in numbers),
    )


def draw_forest(plot: Differences) -> Figure:
    """The plot as a matplotlib figure."""
    groups = list(dict.fromkeys(line.group for line in plot.lines))
    slots = len(plot.lines) + _HEAD * len(groups)
    height = _LINE_INCHES * slots + _BELOW_INCHES + _ABOVE_INCHES
    with rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH_INCHES, height))
        axes = figure.add_axes((0.02, _BELOW_INCHES / height, 0.96, _LINE_INCHES * slots / height))
        axes.axvline(0, color=style.MUTED, linewidth=1)
        top = 0.0
        for group in groups:
            _write(axes, 0, top + 0.55, f"{group} minus", weight="bold")
            top += _HEAD
            for line in (line for line in plot.lines if line.group == group):
                _draw_line(axes, line, top)
                top += 1
        axes.set_ylim(slots, 0)
        axes.margins(x=0.06)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color=style.GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{plot.unit}; {plot.better}")
    return figure


def _draw_line(axes: Axes, line: Line, top: float) -> None:
    """Words, figures, and below them the interval with a mark at the mean."""
    found, at = line.interval, top + 0.72
    _write(axes, 0, top + 0.42, line.label)
    _write(axes, 1, top + 0.42, line.text, ha="right")
    if found.low is not None and found.high is not None:
        axes.plot((found.low, found.high), (at, at), color=line.drawn.colour, linewidth=2)
    axes.plot(
        found.mean,
        at,
        color=line.drawn.colour,
        marker=MARKERS[line.drawn.marker or "circle"],
        markersize=6,
    )


def _write(
    axes: Axes, x: float, y: float, text: str, *, weight: str = "normal", ha: str = "left"
) -> None:
    """Text at a share of the width and a place of the plot, on white so that no line crosses it."""
    axes.text(
        x,
        y,
        plain(text),
        transform=axes.get_yaxis_transform(),
        weight=weight,
        ha=ha,
        va="baseline",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )
