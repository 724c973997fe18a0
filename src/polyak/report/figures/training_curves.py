"""Charts of what happens during training, each from the curves over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polyak.analysis.curves import (
    CurvePoint,
    learning_curves,
    learning_leads,
    learning_rates,
)
from polyak.analysis.loaded import LoadedRow, RunLog
from polyak.records.vocabulary import BASELINE
from polyak.report.figures import authors_curves, style
from polyak.report.figures.chart import Chart, Panel, Series
from polyak.report.figures.reliability import reliability_chart
from polyak.report.figures.series import (
    bank_series,
    lead_panel,
    legend_words,
    smoothed_series,
)
from polyak.report.names import average_name

SMOOTHING_EPOCHS = 5
_PARTS = {
    "holdout": (
        "hold-out",
        "On the hold-out, during the search (as the paper’s figure 1a, with every average)",
    ),
    "test": ("test", "On the test set, during the {phase} (the paper’s figure 2)"),
}


def row_charts(row: LoadedRow, *, prefix: str, preset: str | None = None) -> dict[str, Chart]:
    """All charts that a row's finished runs allow, by kind and in reading order.

    Args:
        row: With its runs.
        prefix: Starts the names of the charts' files.
        preset: The table or figure of the paper that the study is for.
    """
    search, refit = row.logs("search"), row.logs("refit")
    searched, refitted = Curves.of(search), Curves.of(refit)
    charts = {
        "figure1": _figure1(searched.points, row, _rates(search)) if preset == "figure1" else None,
        "holdout": _learning(searched, row, "holdout", _rates(search), stops=_stops(row)),
        "test": _with_authors(
            _learning(refitted, row, "test", _rates(refit))
            if row.record.refits
            else _learning(searched, row, "test", _rates(search), phase="search"),
            row,
        ),
        "batchnorm": _recomputed(refitted.points, row, "test")
        or _recomputed(searched.points, row, "holdout"),
        "memorised": _memorised(refitted, row, "refit") or _memorised(searched, row, "search"),
        "reliability": reliability_chart(row, name="reliability"),
    }
    return {
        kind: replace(chart, name=f"{prefix}-{kind}") for kind, chart in charts.items() if chart
    }


@dataclass(frozen=True, slots=True)
class Curves:
    """What the runs of one phase say at each epoch."""

    points: Sequence[CurvePoint]
    leads: Sequence[CurvePoint]
    """Of averages over SGD."""

    @classmethod
    def of(cls, logs: Sequence[RunLog]) -> "Curves":
        return cls(learning_curves(logs), learning_leads(logs))


def _rates(logs: Sequence[RunLog]) -> tuple[Series, ...]:
    """The first seed's learning rate."""
    if not logs:
        return ()
    epochs, rates = zip(*learning_rates(logs[0]), strict=True)
    drawn = style.RATE
    return (Series(label="learning rate", x=epochs, y=rates, style=drawn, in_legend=False),)


@dataclass(frozen=True, slots=True)
class Stops:
    """Where each seed's run was stopped for accuracy."""

    scores: tuple[Series, ...] = ()
    """At that seed's own score."""

    leads: tuple[Series, ...] = ()
    """At that seed's own lead over SGD."""


def _stops(row: LoadedRow) -> Stops:
    marks = []
    for seed, run in row.of("search").items():
        stop = next((s for s in row.record.stops.get(seed, ()) if s.rule == "acc"), None)
        scores = run.log.part("holdout").get(stop.epoch, {}) if stop else {}
        if stop and stop.average in scores:
            found, sgd = scores[stop.average].accuracy, scores[BASELINE].accuracy
            marks.append((stop.epoch, 100 * found, 100 * (found - sgd)))
    if not marks:
        return Stops()
    x, scored, leads = zip(*marks, strict=True)
    mark = Series(label="chosen for EMA (acc.)", x=x, y=scored, style=style.STOP)
    return Stops((mark,), (replace(mark, y=leads),))


def _learning(
    curves: Curves,
    row: LoadedRow,
    part: str,
    rates: tuple[Series, ...],
    *,
    stops: Stops = Stops(),
    phase: str = "refit",
) -> Chart | None:
    accuracy = bank_series(curves.points, row.record, part=part, metric="accuracy")
    if not accuracy:
        return None
    where, title = _PARTS[part]
    return Chart(
        name=part,
        subject=row.label,
        title=title.format(phase=phase),
        caption="“Best average” is the maximum over the bank at each epoch. It is drawn as in the "
        "paper, but the maximum of several noisy numbers is too high, so no table reports it. "
        + (
            "Crosses are the epochs chosen for EMA (acc.), one for each seed. Under label noise "
            "the hold-out’s labels are as wrong as the training labels, which bounds its accuracy."
            if stops.scores
            else "Nothing was chosen by these curves."
        ),
        legend=legend_words(curves.points, part=part),
        panels=(
            Panel(
                y_label=f"{where} accuracy (%)",
                series=(*accuracy, *stops.scores),
                minus=lead_panel(
                    curves.leads,
                    row.record,
                    part=part,
                    metric="accuracy",
                    of="accuracy",
                    more=stops.leads,
                ),
            ),
            Panel(
                y_label=f"{where} loss (nats)",
                series=bank_series(curves.points, row.record, part=part, metric="loss"),
                minus=lead_panel(curves.leads, row.record, part=part, metric="loss", of="loss"),
            ),
            Panel(y_label="learning rate", series=rates),
        ),
        heights=(3.1, 2.3, 1.1),
    )


def _with_authors(chart: Chart | None, row: LoadedRow) -> Chart | None:
    """The authors' curves behind ours where they are of the same data."""
    if chart is None or not authors_curves.drawn_for(row.record.dataset):
        return chart
    accuracy, loss, rate = chart.panels
    epochs = round(max(max(series.x) for series in accuracy.series))
    theirs = replace(authors_curves.rate_series(epochs), in_legend=False)
    return replace(
        chart,
        caption=f"{chart.caption} {authors_curves.facts()}",
        panels=(
            replace(accuracy, series=(*authors_curves.test_series(epochs), *accuracy.series)),
            loss,
            replace(rate, series=(theirs, *rate.series)),
        ),
    )


def _figure1(points: Sequence[CurvePoint], row: LoadedRow, rates: Sequence[Series]) -> Chart | None:
    """The paper's figure 1a: the bank's best, SGD and the learning rate, nothing else."""
    series = bank_series(points, row.record, part="holdout", metric="accuracy", bank=False)
    if not series:
        return None
    return Chart(
        name="figure1",
        subject=row.label,
        title="The best of the averages at each epoch (the paper’s figure 1a)",
        caption="On the hold-out, BatchNorm statistics averaged along. “Best average” is a maximum "
        "over the bank at each epoch, so it is too high by what chance adds to the best of "
        "several; it is drawn as in the paper and no result.",
        legend=legend_words(points, part="holdout"),
        panels=(
            Panel(y_label="hold-out accuracy (%)", series=series),
            Panel(y_label="learning rate", series=tuple(rates)),
        ),
        heights=(3.1, 1.1),
    )


def _recomputed(points: Sequence[CurvePoint], row: LoadedRow, part: str) -> Chart | None:
    where, _ = _PARTS[part]
    panels = []
    for average in row.record.averages:
        pair = [
            smoothed_series(
                points, average, part=monitor, label=label, drawn=drawn, width=SMOOTHING_EPOCHS
            )
            for monitor, label, drawn in (
                (part, "statistics averaged along", style.AVERAGED),
                (f"{part}_bn", "statistics recomputed", style.RECOMPUTED),
            )
        ]
        if all(pair):
            series = tuple(found for found in pair if found)
            title = average_name(average)
            panels.append(Panel(title=title, y_label=f"{where} accuracy (%)", series=series))
    if not panels:
        return None
    columns = min(3, len(panels))
    return Chart(
        name="batchnorm",
        subject=row.label,
        title="What recomputing BatchNorm statistics changes, average by average (figure 1b)",
        caption=f"A sliding mean of {SMOOTHING_EPOCHS} epochs. The averaged statistics were "
        "measured with other weights than the averaged ones; the longer the window, the more that "
        "can matter.",
        legend=legend_words(points, part=part, banded=False),
        panels=tuple(panels),
        columns=columns,
        heights=(2.3,) * -(-len(panels) // columns),
        share_y=True,
    )


def _memorised(curves: Curves, row: LoadedRow, phase: str) -> Chart | None:
    right, wrong = (
        bank_series(curves.points, row.record, part=part, metric="accuracy", best=False)
        for part in ("train_clean", "train_wrong")
    )
    right_lead, wrong_lead = (
        lead_panel(curves.leads, row.record, part=part, metric="accuracy", of="share")
        for part in ("train_clean", "train_wrong")
    )
    if not right or not wrong:
        return None
    return Chart(
        name="memorised",
        subject=row.label,
        title="Learning the right labels and memorising the wrong ones",
        caption=f"Training images of the {phase}. Left, the higher the better; right, the lower "
        "the better. Note the two scales.",
        legend=legend_words(curves.points, part="train_wrong"),
        panels=(
            Panel(
                title="rightly labelled images",
                y_label="share learnt (%)",
                series=right,
                minus=right_lead and replace(right_lead, title="rightly labelled images"),
            ),
            Panel(
                title="wrongly labelled images",
                y_label="share memorised (%)",
                series=wrong,
                minus=wrong_lead and replace(wrong_lead, title="wrongly labelled images"),
            ),
        ),
        columns=2,
        heights=(3.0,),
    )
