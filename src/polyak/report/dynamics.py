"""Charts of what happens during training, each from the curves over seeds."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from polyak.analysis.curves import (
    BASELINE,
    CurvePoint,
    learning_curves,
    learning_rates,
    sliding_mean,
)
from polyak.analysis.reliability import pooled_reliability
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord
from polyak.report import style
from polyak.report.chart import Chart, Panel, Series
from polyak.report.formatting import counted
from polyak.report.words import arm_name, average_name

BEST = "best average"
SMOOTHING_EPOCHS = 5
Metric = Literal["accuracy", "loss"]


def row_charts(out: Path, row: RowRecord, *, prefix: str) -> list[Chart]:
    """All charts that a row's finished runs allow, in reading order.

    Args:
        out: The output folder.
        row: Names the runs.
        prefix: Starts the names of the charts' files.
    """
    search, refit = (_finished(out, runs.values()) for runs in (row.chosen_search, row.refit))
    searched, refitted = learning_curves(out, search), learning_curves(out, refit)
    rates = _rates(out, [*search, *refit])
    charts = [
        _learning(
            searched, row, rates, part="holdout", name=f"{prefix}-holdout", stops=_stops(out, row)
        ),
        _learning(refitted, row, rates, part="test", name=f"{prefix}-test"),
        _recomputed(refitted, row, part="test", name=f"{prefix}-batchnorm")
        or _recomputed(searched, row, part="holdout", name=f"{prefix}-batchnorm"),
        _memorised(refitted, row, name=f"{prefix}-memorised")
        or _memorised(searched, row, name=f"{prefix}-memorised"),
        _reliability(out, search, name=f"{prefix}-reliability"),
    ]
    return [chart for chart in charts if chart]


def _finished(out: Path, run_ids: Iterable[str]) -> list[str]:
    return [run_id for run_id in run_ids if run_folder(out, run_id).ending == "done"]


def _rates(out: Path, run_ids: Sequence[str]) -> tuple[Series, ...]:
    if not run_ids:
        return ()
    epochs, rates = zip(*learning_rates(out, run_ids[0]), strict=True)
    return (Series(label="learning rate", x=epochs, y=rates, style=style.RATE),)


def _learning(
    points: Sequence[CurvePoint],
    row: RowRecord,
    rates: tuple[Series, ...],
    *,
    part: str,
    name: str,
    stops: tuple[Series, ...] = (),
) -> Chart | None:
    accuracy, loss = (_lines(points, row, part=part, metric=m) for m in ("accuracy", "loss"))
    if not accuracy:
        return None
    seeds = counted(max(p.n for p in points if p.part == part), "seed")
    where = "hold-out" if part == "holdout" else "test"
    return Chart(
        name=name,
        title=(
            "On the hold-out, during the search (the paper’s figure 1a)"
            if part == "holdout"
            else "On the test set, during the refit (the paper’s figure 2)"
        ),
        caption=f"Means over {seeds}{_band_words(points, part)}. "
        "“Best average” is the maximum over the bank at each epoch. It is drawn, as in the paper, "
        "but a maximum over several noisy numbers is too high, so no table reports it. "
        + (
            "Crosses are the epochs chosen for EMA (acc.), one for each seed."
            if stops
            else "Nothing was chosen by these curves."
        ),
        panels=(
            Panel(y_label=f"{where} accuracy (%)", series=(*accuracy, *stops)),
            Panel(y_label=f"{where} loss (nats)", series=loss),
            Panel(y_label="learning rate", series=rates),
        ),
        heights=(3.1, 2.3, 1.0),
    )


def _band_words(points: Sequence[CurvePoint], part: str) -> str:
    banded = any(p.low is not None for p in points if p.part == part)
    return ", bands are 95 % intervals (SGD and best average)" if banded else ""


def _lines(
    points: Sequence[CurvePoint], row: RowRecord, *, part: str, metric: Metric
) -> tuple[Series, ...]:
    """SGD, every average and their best, in percent or nats."""
    styles = {**style.bank(row.averages), BASELINE: style.SGD, BEST: style.BEST}
    labels = {BASELINE: "SGD", BEST: "best average (maximum)"}
    series = []
    for weights in (*row.averages, BASELINE, BEST):
        found = sorted(
            (p for p in points if (p.part, p.weights, p.metric) == (part, weights, metric)),
            key=lambda p: p.epoch,
        )
        if found:
            label = labels.get(weights) or average_name(weights)
            banded = weights in labels
            series.append(_line(found, label, styles[weights], metric=metric, banded=banded))
    return tuple(series)


def _line(
    found: Sequence[CurvePoint], label: str, drawn: style.Style, *, metric: Metric, banded: bool
) -> Series:
    scale = 100.0 if metric == "accuracy" else 1.0
    ends = [(p.low, p.high) for p in found if p.low is not None and p.high is not None]
    whole = banded and len(ends) == len(found)
    return Series(
        label=label,
        x=tuple(p.epoch for p in found),
        y=tuple(scale * p.mean for p in found),
        low=tuple(_within(scale * low, metric) for low, _ in ends) if whole else None,
        high=tuple(_within(scale * high, metric) for _, high in ends) if whole else None,
        style=drawn,
    )


def _within(value: float, metric: Metric) -> float:
    """An interval of few seeds may leave the range that its quantity has."""
    return max(0.0, min(100.0, value) if metric == "accuracy" else value)


def _stops(out: Path, row: RowRecord) -> tuple[Series, ...]:
    """Where each seed's run was stopped for accuracy, at that seed's own score."""
    marks = []
    for seed, run_id in row.chosen_search.items():
        stop = next((s for s in row.stops.get(seed, ()) if s.rule == "acc"), None)
        for record in run_folder(out, run_id).epochs():
            if stop and record.epoch == stop.epoch and stop.average in record.holdout:
                marks.append((stop.epoch, 100 * record.holdout[stop.average].accuracy))
    if not marks:
        return ()
    x, y = zip(*marks, strict=True)
    return (Series(label="chosen for EMA (acc.)", x=x, y=y, style=style.STOP),)


def _recomputed(
    points: Sequence[CurvePoint], row: RowRecord, *, part: str, name: str
) -> Chart | None:
    panels = []
    for average in row.averages:
        lines = [
            _smooth(points, monitor, average, label, drawn)
            for monitor, label, drawn in (
                (part, "statistics averaged along", style.AVERAGED),
                (f"{part}_bn", "statistics recomputed", style.RECOMPUTED),
            )
        ]
        if all(lines):
            where = "hold-out" if part == "holdout" else "test"
            panels.append(
                Panel(
                    title=average_name(average),
                    y_label=f"{where} accuracy (%)",
                    series=tuple(line for line in lines if line),
                )
            )
    if not panels:
        return None
    columns = min(3, len(panels))
    return Chart(
        name=name,
        title="What recomputing BatchNorm statistics changes, average by average (figure 1b)",
        caption=f"Mean over seeds, then a sliding mean of {SMOOTHING_EPOCHS} epochs. Averaged "
        "weights are not the weights that the averaged statistics were measured with; the longer "
        "the window, the more that can matter.",
        panels=tuple(panels),
        columns=columns,
        heights=(2.3,) * -(-len(panels) // columns),
        share_y=True,
    )


def _smooth(
    points: Sequence[CurvePoint], monitor: str, average: str, label: str, drawn: style.Style
) -> Series | None:
    found = sorted(
        (p.epoch, p.mean)
        for p in points
        if (p.part, p.weights, p.metric) == (monitor, average, "accuracy")
    )
    if not found:
        return None
    epochs, means = zip(*found, strict=True)
    smooth = sliding_mean([100 * mean for mean in means], width=SMOOTHING_EPOCHS)
    return Series(label=label, x=epochs, y=tuple(smooth), style=drawn)


def _memorised(points: Sequence[CurvePoint], row: RowRecord, *, name: str) -> Chart | None:
    right = _lines(points, row, part="train_clean", metric="accuracy")
    wrong = _lines(points, row, part="train_wrong", metric="accuracy")
    if not right or not wrong:
        return None
    right, wrong = (tuple(s for s in lines if "best" not in s.label) for lines in (right, wrong))
    seeds = counted(max(p.n for p in points if p.part == "train_wrong"), "seed")
    return Chart(
        name=name,
        title="Learning the right labels and memorising the wrong ones",
        caption=f"Training images of the refit, means over {seeds}, band: 95 % interval of SGD. "
        "Left, the higher the better; right, the lower the better.",
        panels=(
            Panel(title="rightly labelled images", y_label="share learnt (%)", series=right),
            Panel(title="wrongly labelled images", y_label="share learnt (%)", series=wrong),
        ),
        columns=2,
        heights=(3.0,),
    )


def _reliability(out: Path, run_ids: Sequence[str], *, name: str) -> Chart | None:
    bars = {
        arm: pooled_reliability(out, run_ids, arm) for arm in ("sgd", "ema_acc_bn", "ema_loss_bn")
    }
    drawn = [
        (arm_name(arm), [b for b in found if b.count], how)
        for (arm, found), how in zip(bars.items(), style.ARMS, strict=True)
        if found
    ]
    if not drawn:
        return None
    ideal = Series(label="calibrated", x=(0, 100), y=(0, 100), style=style.IDEAL)
    accuracy = tuple(
        Series(
            label=label,
            x=tuple(100 * (b.confidence or 0.0) for b in found),
            y=tuple(100 * (b.accuracy or 0.0) for b in found),
            style=how,
        )
        for label, found, how in drawn
    )
    share = tuple(
        Series(
            label=label,
            x=tuple(100 * (b.confidence or 0.0) for b in found),
            y=tuple(100 * b.count / sum(b.count for b in found) for b in found),
            style=how,
        )
        for label, found, how in drawn
    )
    return Chart(
        name=name,
        title="Reliability: how often a model is right when it is so sure",
        caption="Search models on the test set before temperature scaling, "
        f"{counted(len(run_ids), 'seed')} pooled, bins of equal width. Below the diagonal a model "
        "is too sure of itself, above it not sure enough. Points with a small share of the images "
        "are noisy.",
        panels=(
            Panel(y_label="accuracy (%)", x_label="confidence (%)", series=(ideal, *accuracy)),
            Panel(y_label="share of images (%)", x_label="confidence (%)", series=share),
        ),
        heights=(3.0, 1.4),
    )
