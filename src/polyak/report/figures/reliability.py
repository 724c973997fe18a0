"""The reliability diagram of a row's search models."""

from collections.abc import Sequence

from polyak.analysis.loaded import LoadedRow
from polyak.analysis.reliability import ARMS
from polyak.metrics import ReliabilityBin
from polyak.report.figures import style
from polyak.report.figures.chart import Chart, Panel, Series
from polyak.report.names import arm_name
from polyak.report.numbers import counted


def reliability_chart(row: LoadedRow, *, name: str) -> Chart | None:
    """Accuracy against confidence, and below it how many samples a point stands for."""
    drawn = [
        (arm_name(arm), [bar for bar in row.reliability[arm] if bar.count], how)
        for arm, how in zip(ARMS, style.ARMS, strict=True)
        if row.reliability.get(arm)
    ]
    if not drawn:
        return None
    seeds = counted(len(row.done("search")), "seed")
    ideal = Series(label="calibrated", x=(0, 100), y=(0, 100), style=style.IDEAL)
    return Chart(
        name=name,
        subject=row.label,
        title="Reliability: how often a model is right when it is so sure",
        caption=f"Search models on the test set before temperature scaling, {seeds} together, "
        "bins of equal width. Below the diagonal a model is too sure of itself, above it not sure "
        "enough. Points that stand for few samples are noisy.",
        legend=f"{seeds} together",
        panels=(
            Panel(
                y_label="accuracy (%)",
                x_label="confidence (%)",
                series=(ideal, *(_accuracy(*line) for line in drawn)),
            ),
            Panel(
                y_label="share of samples (%)",
                x_label="confidence (%)",
                series=tuple(_share(*line) for line in drawn),
            ),
        ),
        heights=(3.0, 1.5),
    )


def _accuracy(label: str, bars: Sequence[ReliabilityBin], how: style.Style) -> Series:
    right = tuple(100 * (bar.accuracy or 0.0) for bar in bars)
    return Series(label=label, x=_confidence(bars), y=right, style=how)


def _share(label: str, bars: Sequence[ReliabilityBin], how: style.Style) -> Series:
    total = sum(bar.count for bar in bars)
    share = tuple(100 * bar.count / total for bar in bars)
    return Series(label=label, x=_confidence(bars), y=share, style=how)


def _confidence(bars: Sequence[ReliabilityBin]) -> tuple[float, ...]:
    return tuple(100 * (bar.confidence or 0.0) for bar in bars)
