"""What a chart shows, in words: for who cannot see it."""

from collections.abc import Sequence

from polyak.report.figures.chart import Chart, Panel, Series
from polyak.report.figures.series import BEST_LABEL
from polyak.report.numbers import joined, significant

_PLACES = 5
"""Points of a line that are told, at even distances: no extremes, which chance would choose."""


def alternative(chart: Chart) -> str:
    """Title, and of each line its values at the start, the end and three places between.

    The maximum over averages is drawn as the paper draws it and is no result, so it is not told.
    """
    told = [text for panel in chart.panels if (text := _panel(panel))]
    return " ".join((f"{chart.subject}. {chart.title}.", *told))


def _panel(panel: Panel) -> str:
    lines = [s for s in panel.series if s.x and s.label != BEST_LABEL]
    if not lines:
        return ""
    head = f"{panel.title}, {panel.y_label}" if panel.title else panel.y_label
    places = {tuple(s.x[i] for i in _places(s)) for s in lines}
    if len(places) > 1:
        each = "; ".join(f"{s.label} {_points(s)}" for s in lines)
        return f"{_capital(head)} against {panel.x_label}: {each}."
    (common,) = places
    where = joined([significant(x) for x in common])
    each = "; ".join(f"{s.label} {_values(s)}" for s in lines)
    return f"{_capital(head)} at {panel.x_label} {where}: {each}."


def _values(series: Series) -> str:
    return ", ".join(significant(series.y[i]) for i in _places(series))


def _points(series: Series) -> str:
    points = (f"{significant(series.y[i])} at {significant(series.x[i])}" for i in _places(series))
    return ", ".join(points)


def _places(series: Series) -> Sequence[int]:
    last = len(series.x) - 1
    return sorted({round(share * last / (_PLACES - 1)) for share in range(_PLACES)})


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
