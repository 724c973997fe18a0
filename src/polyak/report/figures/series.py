"""From curves over seeds to the series of a chart, in percent and nats."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Literal

from polyak.analysis.curves import CurvePoint, sliding_mean
from polyak.records.studies import RowRecord
from polyak.records.vocabulary import BASELINE
from polyak.report.figures import style
from polyak.report.figures.chart import Panel, Series
from polyak.report.names import average_name
from polyak.report.numbers import counted

BEST = "best average"
Metric = Literal["accuracy", "loss"]
_SCALES: dict[Metric, float] = {"accuracy": 100.0, "loss": 1.0}
BEST_LABEL = "best average (maximum)"
_LABELS = {BASELINE: "SGD", BEST: BEST_LABEL}


def bank_series(
    points: Sequence[CurvePoint],
    row: RowRecord,
    *,
    part: str,
    metric: Metric,
    best: bool = True,
    bank: bool = True,
) -> tuple[Series, ...]:
    """Every average of the bank, SGD, and the bank's best.

    Args:
        points: Curves of one phase's runs.
        row: Names the averages.
        part: "holdout" or a monitor.
        metric: Accuracy comes out in percent.
        best: With the maximum over the bank at each epoch.
        bank: With each average.

    Returns:
        A series for each that has points; bands on SGD and the best, where there are two seeds.
    """
    styles = {**style.bank(row.averages), BASELINE: style.SGD, BEST: style.BEST}
    series = []
    for weights in (*(row.averages if bank else ()), BASELINE, *([BEST] if best else [])):
        found = _chosen(points, part, weights, metric)
        if found:
            label = _LABELS.get(weights) or average_name(weights)
            line = _series(found, label, styles[weights], scale=_SCALES[metric])
            series.append(_possible(line, metric) if weights in _LABELS else _without_band(line))
    return tuple(series)


def lead_panel(
    leads: Sequence[CurvePoint],
    row: RowRecord,
    *,
    part: str,
    metric: Metric,
    of: str,
    more: Sequence[Series] = (),
) -> Panel | None:
    """How far every average of the bank is from SGD, which is the line at 0.

    Args:
        leads: Differences of one phase's runs.
        row: Names the averages.
        part: "holdout" or a monitor.
        metric: Accuracy comes out in points.
        of: What differs, in words.
        more: Further lines.

    Returns:
        A panel with the interval of the longest window as a band; None where there is no average.
    """
    styles = style.bank(row.averages)
    found = {weights: _chosen(leads, part, weights, metric) for weights in row.averages}
    found = {weights: points for weights, points in found.items() if points}
    if not found:
        return None
    longest = list(found)[-1]
    epochs = tuple(p.epoch for p in found[longest])
    sgd = Series(label="SGD", x=epochs, y=(0.0,) * len(epochs), style=style.SGD)
    averages = (
        _series(
            points,
            average_name(weights),
            styles[weights],
            scale=_SCALES[metric],
            drawn_band=weights == longest,
        )
        for weights, points in found.items()
    )
    unit = "points" if metric == "accuracy" else "nats"
    return Panel(y_label=f"{of} minus SGD’s ({unit})", series=(*averages, sgd, *more))


def smoothed_series(
    points: Sequence[CurvePoint],
    weights: str,
    *,
    part: str,
    label: str,
    drawn: style.Style,
    width: int,
) -> Series | None:
    """Accuracy in percent as a sliding mean over `width` epochs, without a band."""
    found = _chosen(points, part, weights, "accuracy")
    if not found:
        return None
    smooth = sliding_mean([100 * p.mean for p in found], width=width)
    return Series(label=label, x=tuple(p.epoch for p in found), y=tuple(smooth), style=drawn)


def legend_words(points: Sequence[CurvePoint], *, part: str, banded: bool = True) -> str:
    """How many seeds a part's lines are means of, and what bands there are.

    Example:
        >>> point = CurvePoint(part="test", weights="sgd", metric="loss", epoch=1, mean=1.0,
        ...                    low=0.5, high=1.5, n=3)
        >>> legend_words([point], part="test")
        'means of 3 seeds; band: 95 % interval'
    """
    here = [p for p in points if p.part == part]
    seeds = max(p.n for p in here)
    means = f"means of {counted(seeds, 'seed')}" if seeds > 1 else "one seed"
    band = banded and any(p.low is not None for p in here)
    return means + ("; band: 95 % interval" if band else "")


def _chosen(
    points: Sequence[CurvePoint], part: str, weights: str, metric: Metric
) -> list[CurvePoint]:
    wanted = (part, weights, metric)
    found = (p for p in points if (p.part, p.weights, p.metric) == wanted)
    return sorted(found, key=lambda p: p.epoch)


def _series(
    found: Sequence[CurvePoint],
    label: str,
    drawn: style.Style,
    *,
    scale: float,
    drawn_band: bool = True,
) -> Series:
    ends = [(p.low, p.high) for p in found if p.low is not None and p.high is not None]
    # Seeds may end at different epochs; half a band would look like certainty.
    whole = len(ends) == len(found)
    return Series(
        label=label,
        x=tuple(p.epoch for p in found),
        y=tuple(scale * p.mean for p in found),
        low=tuple(scale * low for low, _ in ends) if whole else None,
        high=tuple(scale * high for _, high in ends) if whole else None,
        style=drawn,
        banded=drawn_band,
    )


def _without_band(line: Series) -> Series:
    return replace(line, low=None, high=None)


def _possible(line: Series, metric: Metric) -> Series:
    """An interval of few seeds may leave the range that its quantity has."""
    most = 100.0 if metric == "accuracy" else inf
    low, high = (
        None if ends is None else tuple(max(0.0, min(most, end)) for end in ends)
        for ends in (line.low, line.high)
    )
    return replace(line, low=low, high=high)
