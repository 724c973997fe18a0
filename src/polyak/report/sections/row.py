"""What the page says about one row of a study alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from polyak.analysis.loaded import LoadedRow
from polyak.analysis.search import rate_scores
from polyak.analysis.seeds import mean_interval
from polyak.records.studies import RowRecord
from polyak.records.vocabulary import RULES, Phase
from polyak.report import facts
from polyak.report.figures.chart import Chart
from polyak.report.figures.training_curves import row_charts
from polyak.report.names import average_name, paper_name
from polyak.report.numbers import number
from polyak.report.sections.remarks import overlaps
from polyak.report.sections.summary import controls
from polyak.report.tables.cells import sd_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLine:
    """A learning rate of the search."""

    learning_rate: str
    score: str
    """SGD's best hold-out accuracy in percent, mean ± standard deviation over seeds."""

    note: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StopLine:
    """Where the rules stopped one seed's run."""

    seed: str
    stops: tuple[tuple[str, str], ...]
    """Epoch and average for each of `RULES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPart:
    """What the page says about one row alone."""

    label: str
    anchor: str
    record: RowRecord
    problems: list[str]
    settings: list[tuple[str, str]]
    cost: facts.Cost
    wrong_labels: tuple[int, int] | None
    rates: list[RateLine]
    stops: list[StopLine]
    overlaps: list[str]
    controls: list[tuple[str, str]]
    charts: dict[str, Chart]
    """By kind: figure1, holdout, test, batchnorm, memorised, reliability."""

    no_chart: dict[str, str]
    """Why a kind of chart is missing."""

    stands_for: list[tuple[str, str]]
    """Averages and the paper's that they stand for."""


def row_part(row: LoadedRow, *, anchor: str, preset: str | None = None) -> RowPart:
    """What the page says about a row alone.

    Args:
        row: With its runs and numbers.
        anchor: Its name in the page's links and files.
        preset: The table, figure or appendix of the paper that the study is for.
    """
    charts = row_charts(row, prefix=anchor, preset=preset)
    record = row.record
    return RowPart(
        label=row.label,
        anchor=anchor,
        record=record,
        problems=facts.problems(row),
        settings=facts.settings(row),
        cost=facts.cost(row.runs.values()),
        wrong_labels=row.wrong_labels,
        rates=_rates(row),
        stops=_stops(record),
        overlaps=overlaps(row),
        controls=controls(row),
        charts=charts,
        no_chart=_no_chart(row, charts),
        stands_for=[
            (average_name(name), average_name(paper))
            for name in record.averages
            if (paper := paper_name(record, name))
        ],
    )


def _rates(row: LoadedRow) -> list[RateLine]:
    digits = facts.accuracy_digits(row)
    lines = []
    for found in rate_scores(row):
        score = "–"
        if found.best:
            interval = mean_interval(100 * best for best in found.best.values())
            sd = sd_of(row, interval)
            spread = "" if sd is None else f" ± {number(sd, digits)}"
            score = number(interval.mean, digits) + spread
        notes = [f"seed {seed}: {ending}" for seed, ending in found.unfinished.items()]
        own = [
            s for s, rate in row.record.seed_learning_rates.items() if rate == found.learning_rate
        ]
        notes += [f"for seed {', '.join(own)}"] if own else []
        lines.append(
            RateLine(
                learning_rate=f"{found.learning_rate:g}",
                score=score,
                note="; ".join(notes),
                chosen=found.chosen,
            )
        )
    return lines


_NEEDED: dict[str, tuple[Phase, str, str]] = {
    "holdout": ("search", "hold-out curves", "a hold-out"),
    "test": ("refit", "test curves", "the monitor test"),
    "batchnorm": ("refit", "curves with recomputed statistics", "the monitors test and test_bn"),
    "memorised": ("refit", "curves of memorising", "the monitors train_clean and train_wrong"),
    "reliability": ("search", "reliability diagram", "test logits"),
}


def _no_chart(row: LoadedRow, charts: Mapping[str, Chart]) -> dict[str, str]:
    found = {}
    for kind, (phase, what, needed) in _NEEDED.items():
        if kind not in charts:
            why = facts.reason(row, phase)
            if why == facts.NOT_MEASURED:
                why = f"the runs were made without {needed}"
            found[kind] = f"{row.label}: no {what} ({why})."
    return found


def _stops(record: RowRecord) -> list[StopLine]:
    return [
        StopLine(
            seed=seed,
            stops=tuple(
                next(
                    ((str(s.epoch), average_name(s.average)) for s in stops if s.rule == rule),
                    ("–", ""),
                )
                for rule in RULES
            ),
        )
        for seed, stops in sorted(record.stops.items(), key=lambda item: int(item[0]))
    ]
