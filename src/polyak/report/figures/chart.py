"""A figure as data: what is drawn, by whichever library, and the CSV beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from polyak import files
from polyak.report.figures.style import Style

_CROWDED = 0.25
"""Share of the range of y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line of a chart, with a band where there is an interval."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    style: Style
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    in_legend: bool = True
    banded: bool = True
    """Whether the band is drawn, or only told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    y_label: str
    series: tuple[Series, ...]
    x_label: str = "epoch"
    title: str = ""
    minus: "Panel | None" = None
    """The lines minus SGD's, to be looked at in this one's place."""

    @property
    def crowded(self) -> bool:
        """Whether the lines are usually so near SGD's that they hide each other."""
        if self.minus is None:
            return False
        levels = [y for series in self.series for y in series.y]
        farthest: dict[float, float] = {}
        for series in self.minus.series:
            for x, y in zip(series.x, series.y, strict=True):
                farthest[x] = max(farthest.get(x, 0.0), abs(y))
        return median(farthest.values()) < _CROWDED * (max(levels) - min(levels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A figure: panels in a grid, read row by row."""

    name: str
    """Stem of its files."""

    title: str
    caption: str
    subject: str
    """What it is about: the row's label."""

    panels: tuple[Panel, ...]
    columns: int = 1
    heights: tuple[float, ...] = (3.0,)
    """Of the grid's rows, in inches."""

    legend: str = ""
    """Heading of the legend: how many seeds, what a band means."""

    share_y: bool = False
    """One range of y for all panels; x is shared always."""

    @property
    def crowded(self) -> bool:
        """Whether its first panel is, so that differences show more."""
        return self.panels[0].crowded


def write_csv(chart: Chart, path: Path) -> None:
    """Every point that the figure draws, in the figure's units."""
    files.write_csv(path, _HEADS, _points(chart))


_HEADS = ("panel", "series", "x", "y", "low", "high", "x_is", "y_is")


def _points(chart: Chart) -> Iterator[tuple[object, ...]]:
    for panel in chart.panels:
        for series in panel.series:
            low, high = (ends or [None] * len(series.x) for ends in (series.low, series.high))
            for x, y, *band in zip(series.x, series.y, low, high, strict=True):
                yield panel.title, series.label, x, y, *band, panel.x_label, panel.y_label
