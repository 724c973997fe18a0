"""Figures for print, by matplotlib without pyplot: a chart in, a Figure out."""

from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from polyak.files import replacing
from polyak.report.figures.chart import Chart, Panel, Series
from polyak.report.figures.style import GRID, INK, MUTED, Dash, Marker

WIDTH_INCHES = 9.0
TITLE_WIDTH = 90
"""Characters of a title's line."""

_MARKS_A_LINE = 8
_DASHES: dict[Dash, str | tuple[int, tuple[float, ...]]] = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1.2, 1.6)),
    "dashdot": (0, (5, 1.6, 1.2, 1.6)),
}
MARKERS: dict[Marker, str] = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "x": "X",
}
SETTINGS: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    # The same page twice is the same bytes twice.
    "svg.hashsalt": "polyak",
}


def draw(chart: Chart) -> Figure:
    """The chart as a matplotlib figure, legend on the right."""
    rows = len(chart.heights)
    with rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH_INCHES, sum(chart.heights) + 0.3), layout="constrained")
        grid = figure.subplots(
            rows,
            chart.columns,
            sharex=True,
            sharey=chart.share_y,
            squeeze=False,
            gridspec_kw={"height_ratios": chart.heights},
        )
        for index, axes in enumerate(grid.flat):
            if index >= len(chart.panels):
                axes.set_axis_off()
                continue
            below = index + chart.columns
            _fill(axes, chart.panels[index], last=below >= len(chart.panels))
        handles = {
            label: handle
            for axes in grid.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside right center",
            fontsize=8.5,
            title=chart.legend,
            title_fontsize=8.5,
            alignment="left",
        )
        figure.suptitle(
            fill(plain(f"{chart.subject}. {chart.title}"), TITLE_WIDTH),
            x=0.01,
            ha="left",
            fontsize=10,
            weight="bold",
        )
    return figure


def write_svg(chart: Chart, path: Path) -> None:
    """Draw the chart into a file."""
    save(draw(chart), path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure of `SETTINGS` as SVG.

    What `savefig` writes, which draws everything twice where a layout is computed.
    """
    with replacing(path) as temporary, rc_context(SETTINGS):
        canvas = FigureCanvasSVG(figure)
        # Its types are missing in matplotlib's own.
        canvas.print_svg(str(temporary), metadata={"Date": None})  # type: ignore[no-untyped-call]


def _fill(axes: Axes, panel: Panel, *, last: bool) -> None:
    for series in panel.series:
        _plot(axes, series)
    axes.set_ylabel(panel.y_label)
    axes.set_title(plain(panel.title), loc="left")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if last:
        axes.set_xlabel(panel.x_label)
        axes.tick_params(labelbottom=True)


def _plot(axes: Axes, series: Series) -> None:
    style = series.style
    axes.plot(
        series.x,
        series.y,
        label=plain(series.label) if series.in_legend else "_",
        color=style.colour,
        linewidth=style.width,
        linestyle=_DASHES[style.dash] if style.width else "",
        marker=MARKERS[style.marker] if style.marker else None,
        markersize=4.5 if style.width else 7,
        markevery=max(1, len(series.x) // _MARKS_A_LINE) if style.width else None,
    )
    if series.low is not None and series.high is not None:
        axes.fill_between(
            series.x, series.low, series.high, color=style.colour, alpha=0.14, linewidth=0
        )


def plain(text: str) -> str:
    """Without mathematics: a dollar sign in a name is a dollar sign."""
    return text.replace("$", r"\$")
