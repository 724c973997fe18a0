"""Figures to look into: a chart as plain JSON values, which `templates/charts.js` draws."""

from typing import Any

from polyak.report.figures.chart import Chart, Panel, Series


def spec(chart: Chart) -> dict[str, Any]:
    """Every point of a chart and how it looks.

    Where panels have lines minus SGD's, `differences` says whether these are what is shown first.
    """
    return {
        "columns": chart.columns,
        "heights": list(chart.heights),
        "share_y": chart.share_y,
        "legend": chart.legend,
        "differences": chart.crowded,
        "panels": [
            {**_panel(panel), "minus": panel.minus and _panel(panel.minus)}
            for panel in chart.panels
        ],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "title": panel.title,
        "x_label": panel.x_label,
        "y_label": panel.y_label,
        "series": [_series(series) for series in panel.series],
    }


def _series(series: Series) -> dict[str, Any]:
    style = series.style
    drawn: dict[str, Any] = {
        "label": series.label,
        "x": list(series.x),
        "y": _rounded(series.y),
        "colour": style.colour,
        "dash": style.dash,
        "marker": style.marker,
        "width": style.width,
        "in_legend": series.in_legend,
        "band": series.banded,
    }
    if series.low is not None and series.high is not None:
        drawn |= {"low": _rounded(series.low), "high": _rounded(series.high)}
    return drawn


def _rounded(values: tuple[float, ...]) -> list[float]:
    """Five significant digits: a screen shows four, and the CSV has all."""
    return [float(f"{value:.5g}") for value in values]
