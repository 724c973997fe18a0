"""The report of a study: one HTML file that opens without a network, figures beside it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from polyak.analysis.claims.ledger import Entry
from polyak.analysis.results import Phase, Result, bins_for, write_results
from polyak.analysis.variants import all_results
from polyak.files import replacing
from polyak.records.studies import MeasurementRecord, RowRecord, StudyRecord, read_study
from polyak.report import facts, overhead
from polyak.report.departures import departures, scale_notice
from polyak.report.figures.chart import write_csv
from polyak.report.figures.interactive import library, spec
from polyak.report.figures.svg import write_svg
from polyak.report.names import ARMS
from polyak.report.numbers import counted, duration, joined
from polyak.report.paper.published import note_everywhere, numbers_for
from polyak.report.sections.appendix import APPENDICES, appendix, with_comparisons
from polyak.report.sections.claims import judge, ledger_part, write_ledger
from polyak.report.sections.remarks import SPLIT, matched
from polyak.report.sections.row import RULES, RowPart, row_part
from polyak.report.sections.summary import headline
from polyak.report.tables.arms import ACCURACY, ECE, LOSS, Question, arm_table, arms_in, paper_cell
from polyak.report.tables.comparisons import against_table, budget_table
from polyak.report.tables.paper_methods import paper_form
from polyak.report.tables.paper_tables import preset_of
from polyak.report.tables.table import Cell, Measure, Table

CHURN = (
    Measure(metric="churn", heading="churn", unit="%", scale=100, digits=1),
    Measure(metric="js", heading="JS divergence", unit="nats", digits=4),
)
JS_PAPER_CODE = Measure(
    metric="js_paper_code", heading="the authors’ “JS”", unit="as coded", digits=3
)
CALIBRATION = (
    ACCURACY,
    ECE,
    Measure(metric="ece_floor", heading="floor of ECE", unit="%", scale=100, digits=1),
    Measure(metric="temperature", heading="temperature", unit="", digits=2),
    Measure(metric="ece_scaled", heading="ECE, scaled", unit="%", scale=100, digits=1),
    Measure(metric="brier", heading="Brier score", unit=""),
)
MEMORISED = Measure(
    metric="memorised", heading="wrong labels memorised", unit="%", scale=100, digits=1
)
PROBED = ("sgd", "sgd_at_ema", "ema_acc_bn", "ema_loss_bn")


def write_report(out: Path, name: str) -> Path:
    """Compute a study's results from its files and write its page.

    Args:
        out: The output folder that holds `runs/` and the study's folder.
        name: Of the study.

    Returns:
        Path of `out/<name>/report/index.html`; figures and their CSV files lie in `figures/`
        beside it, all numbers in `out/<name>/results.parquet`.

    Raises:
        FileError: if there is no such study or a file of a finished run is damaged.
    """
    study = read_study(out / name)
    if study.measurement is not None:
        return _write_measurement(out, study, study.measurement)
    results = all_results(out, study)
    write_results(out / name / "results.parquet", results)
    return write_page(out, study, results, out / name / "report")


def write_page(
    out: Path,
    study: StudyRecord,
    results: Sequence[Result],
    folder: Path,
    *,
    interactive: bool = True,
) -> Path:
    """Write the page, its figures and its ledger of claims into a folder.

    Args:
        out: The output folder that holds `runs/`.
        study: What the page is about.
        results: Its numbers.
        folder: Where to.
        interactive: Whether figures can be looked into, which takes 5 MB, or are pictures.
    """
    parts = [
        row_part(out, row, results, anchor=f"row{number}", preset=preset_of(study.name))
        for number, row in enumerate(study.rows, start=1)
    ]
    parts = with_comparisons(out, study, parts)
    for part in parts:
        for chart in part.charts.values():
            write_svg(chart, folder / "figures" / f"{chart.name}.svg")
            write_csv(chart, folder / "figures" / f"{chart.name}.csv")
    entries = judge(out, study, results)
    write_ledger(folder, entries)
    page = folder / "index.html"
    html = render(out, study, results, parts, entries, interactive=interactive)
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page


def _write_measurement(out: Path, study: StudyRecord, measured: MeasurementRecord) -> Path:
    """The page of a study that measures."""
    timings = overhead.timings_of(out, study)
    folder = out / study.name / "report"
    if timings is not None:
        overhead.write_rounds(folder / "rounds.csv", timings)
    entries = judge(out, study, [])
    write_ledger(folder, entries)
    html = (
        _templates()
        .get_template("overhead.html.j2")
        .render(
            study=study,
            measured=measured,
            timings=timings,
            reason=overhead.reason(out, measured),
            notice=overhead.notice(measured, timings) if timings else [],
            columns=overhead.COLUMNS,
            lines=overhead.lines(timings) if timings else [],
            claims=overhead.claims(timings) if timings else [],
            machine=overhead.machine(timings) if timings else [],
            wall_time=duration(study.seconds),
            ledger=ledger_part(study, entries),
            scale=[],
        )
    )
    page = folder / "index.html"
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page


def render(
    out: Path,
    study: StudyRecord,
    results: Sequence[Result],
    parts: Sequence[RowPart],
    entries: Sequence[Entry] = (),
    *,
    interactive: bool = True,
) -> str:
    """The page as text."""
    charts = [chart for part in parts for chart in part.charts.values()]
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            study=study,
            departures=departures(study),
            ddof0=any("sd" in row.paper_code for row in study.rows),
            own_rates=any("learning-rate" in row.paper_code for row in study.rows),
            parts=parts,
            headlines=[headline(out, row, results) for row in study.rows],
            tables=_tables(out, study, results),
            form=paper_form(out, study, results),
            everywhere=note_everywhere(),
            scale=scale_notice(out, study),
            refits=any(facts.wants_refits(row) for row in study.rows),
            figure=_figure(name=study.name),
            appendix=appendix(out, study, results),
            matched=[line for row in study.rows for line in matched(row, results)],
            cost=facts.cost(out, [r for row in study.rows for r in facts.all_runs(row)]),
            wall_time=duration(study.seconds),
            arms=[ARMS[arm] for arm in arms_in(results, "refit") if arm in ARMS],
            bins=_bins(out, study),
            rules=list(RULES.values()),
            others=_other_methods(study),
            ledger=ledger_part(study, entries),
            specs={chart.name: spec(chart) for chart in charts} if interactive else {},
            library=library() if charts and interactive else "",
            duration=duration,
            counted=counted,
        )
    )


def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("polyak.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _tables(
    out: Path, study: StudyRecord, results: Sequence[Result]
) -> dict[str, Table | list[tuple[str, Table]]]:
    rows = study.rows
    known = any(numbers_for(row.dataset, row.architecture) for row in rows)
    coded = known or any("js" in row.paper_code for row in rows)
    refit_arms, search_arms = (arms_in(results, phase) for phase in ("refit", "search"))
    noisy_labels = {r.row for r in results if r.metric == "memorised"}
    noisy = [row for row in rows if row.label in noisy_labels]
    wide = tuple(replace(measure, difference=True) for measure in (ACCURACY, LOSS))

    def table(
        phase: Phase,
        measures: tuple[Measure, ...],
        arms: Sequence[str],
        among: Sequence[RowRecord] = rows,
        target: str = "test",
    ) -> Table:
        asked = Question(phase=phase, measures=measures, arms=tuple(arms), target=target)
        return arm_table(out, among, results, asked)

    targets = dict.fromkeys(target for row in rows for target in row.transfer)
    found: dict[str, Table | list[tuple[str, Table]]] = {
        "generalisation": table("refit", wide, refit_arms),
        "churn": table("refit", (*CHURN, JS_PAPER_CODE) if coded else CHURN, refit_arms),
        "calibration": table("search", CALIBRATION, search_arms),
        "transfer": [
            (target, table("transfer", wide[:1], PROBED, _aiming(rows, target), target))
            for target in targets
        ],
    }
    found["churn_split"] = table("refit", SPLIT, refit_arms)
    if noisy and any(facts.wants_refits(row) for row in noisy):
        found["noise"] = table("refit", (MEMORISED, ACCURACY), refit_arms, noisy)
    elif noisy:
        found["noise"] = table("search", (MEMORISED, ACCURACY), search_arms, noisy)
    more = {
        "budget": budget_table(out, rows, results),
        "against": None
        if preset_of(study.name) in APPENDICES
        else against_table(out, rows, results),
    }
    return found | {name: shown for name, shown in more.items() if shown}


def _figure(name: str) -> str:
    """The figure of the paper that a study is for; empty where it is for none."""
    preset = preset_of(name) or ""
    return preset.removeprefix("figure") if preset.startswith("figure") else ""


def _aiming(rows: Sequence[RowRecord], target: str) -> list[RowRecord]:
    """Rows with a probe on the target, and those that may have lost theirs."""
    return [row for row in rows if target in row.transfer or not row.transfer]


def _bins(out: Path, study: StudyRecord) -> str:
    sizes = {facts.images_in_test(out, row) for row in study.rows} - {None}
    return joined([str(bins_for(size)) for size in sorted(s for s in sizes if s)])


def _other_methods(study: StudyRecord) -> list[tuple[str, list[tuple[str, Cell]]]]:
    """What the paper quotes of other people's methods, for rows with wrong labels."""
    found = []
    for row in study.rows:
        numbers = [
            p for p in numbers_for(row.dataset, row.architecture) if p.table == 2 and not p.arm
        ]
        models = dict.fromkeys(p.model for p in numbers)
        if models:
            cells = [
                (model, paper_cell([p for p in numbers if p.model == model])) for model in models
            ]
            found.append((row.label, cells))
    return found
