"""Figures to look into, as plotly reads them: a chart in, plain JSON values out."""

from html import escape
from typing import Any

from plotly.offline import get_plotlyjs

from polyak.report.figures.chart import Chart, Panel, Series
from polyak.report.figures.style import FONT, GRID, INK, MUTED, translucent

_PIXELS_AN_INCH = 92
_GAP_PIXELS = 46
_MARGIN = {"l": 62, "r": 10, "t": 26, "b": 48}
_MARKS_A_LINE = 10


def library() -> str:
    """plotly.js, to be put into a page once. It holds no closing script tag."""
    source: str = get_plotlyjs()
    return source


def spec(chart: Chart) -> dict[str, Any]:
    """Data and layout for `Plotly.newPlot`."""
    plot_pixels = sum(chart.heights) * _PIXELS_AN_INCH
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "height": round(plot_pixels + _MARGIN["t"] + _MARGIN["b"]),
        "margin": _MARGIN,
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "hovermode": "closest",
        "legend": {
            "font": {"size": 12},
            "tracegroupgap": 0,
            "title": {"text": escape(chart.legend).replace("; ", "<br>"), "font": {"size": 12}},
        },
        "annotations": [],
    }
    named: set[str] = set()
    for index, panel in enumerate(chart.panels):
        suffix = str(index + 1) if index else ""
        x_domain, y_domain = _domains(chart, index, plot_pixels)
        below = index + chart.columns >= len(chart.panels)
        layout[f"xaxis{suffix}"] = _axis(x_domain, f"y{suffix}", panel.x_label if below else "")
        layout[f"yaxis{suffix}"] = _axis(y_domain, f"x{suffix}", _y_label(chart, panel, index))
        if index:
            layout[f"xaxis{suffix}"]["matches"] = "x"
            if chart.share_y:
                layout[f"yaxis{suffix}"]["matches"] = "y"
        if panel.title:
            layout["annotations"].append(_title(panel.title, x_domain, y_domain))
        for series in panel.series:
            group = escape(series.label)
            traces += _traces(
                series, group, suffix, in_legend=series.in_legend and group not in named
            )
            named.add(group)
    return {"data": traces, "layout": layout}


def _domains(
    chart: Chart, index: int, plot_pixels: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Shares of the plot's width and height that a panel takes."""
    row, column = divmod(index, chart.columns)
    left_gap = 0.0 if chart.columns == 1 else 0.05 if chart.share_y else 0.11
    width = (1 - left_gap * (chart.columns - 1)) / chart.columns
    left = column * (width + left_gap)
    total = sum(chart.heights)
    top = 1 - sum(chart.heights[:row]) / total
    gap = _GAP_PIXELS / plot_pixels if row + 1 < len(chart.heights) else 0.0
    bottom = 1 - sum(chart.heights[: row + 1]) / total + gap
    return (round(left, 4), round(left + width, 4)), (round(max(bottom, 0), 4), round(top, 4))


def _axis(domain: tuple[float, float], anchor: str, label: str) -> dict[str, Any]:
    return {
        "domain": list(domain),
        "anchor": anchor,
        "title": {"text": escape(label), "standoff": 8},
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zeroline": False,
        "automargin": True,
    }


def _y_label(chart: Chart, panel: Panel, index: int) -> str:
    return "" if chart.share_y and index % chart.columns else panel.y_label


def _title(text: str, x: tuple[float, float], y: tuple[float, float]) -> dict[str, Any]:
    return {
        "text": escape(text),
        "x": x[0],
        "y": y[1],
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 13},
    }


def _traces(series: Series, group: str, axis: str, *, in_legend: bool) -> list[dict[str, Any]]:
    common = {"type": "scatter", "xaxis": f"x{axis}", "yaxis": f"y{axis}", "legendgroup": group}
    style = series.style
    trace: dict[str, Any] = {
        **common,
        "name": group,
        "showlegend": in_legend,
        "x": list(series.x),
        "y": _rounded(series.y),
        "mode": "+".join(m for m, on in (("lines", style.width), ("markers", style.marker)) if on),
        "line": {"color": style.colour, "dash": style.dash, "width": style.width},
        "hovertemplate": f"%{{x}}: %{{y:.4~g}} {group}<extra></extra>",
    }
    if style.marker:
        shown = {"maxdisplayed": _MARKS_A_LINE} if style.width else {}
        size = 6 if style.width else 9
        trace["marker"] = {"symbol": style.marker, "size": size, "color": style.colour, **shown}
    if series.low is None or series.high is None:
        return [trace]
    band = {
        **common,
        "x": [*series.x, *reversed(series.x)],
        "y": _rounded((*series.high, *reversed(series.low))),
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": translucent(style.colour, 0.13),
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [band, trace]


def _rounded(values: tuple[float, ...]) -> list[float]:
    """Five significant digits: a screen shows three, and the CSV has all."""
    return [float(f"{value:.5g}") for value in values]
