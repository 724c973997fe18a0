"""The report of a study: one HTML file that opens without a network, figures beside it."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from polyak.analysis.claims.ledger import Entry
from polyak.analysis.loaded import LoadedStudy, load_study
from polyak.analysis.results import bins_for, write_results
from polyak.files import replacing
from polyak.records.studies import MeasurementRecord
from polyak.report import facts, overhead
from polyak.report.departures import departures, scale_notice
from polyak.report.figures.alternative import alternative
from polyak.report.figures.chart import write_csv
from polyak.report.figures.differences import Differences, main_differences
from polyak.report.figures.forest import write_forest
from polyak.report.figures.interactive import spec
from polyak.report.figures.svg import write_svg
from polyak.report.names import ARMS, RULE_NAMES
from polyak.report.numbers import counted, duration, joined
from polyak.report.paper.published import note_everywhere
from polyak.report.sections.appendix import appendix, with_comparisons
from polyak.report.sections.claims import judge, ledger_part, write_ledger
from polyak.report.sections.own_claims import judge_own, own_part, own_record
from polyak.report.sections.remarks import matched
from polyak.report.sections.row import RowPart, row_part
from polyak.report.sections.summary import headline, ledger_says
from polyak.report.tables.arms import arms_in
from polyak.report.tables.overview import other_methods, tables_of, transfer_tables
from polyak.report.tables.paper_methods import paper_table


def write_report(out: Path, name: str, *, study: LoadedStudy | None = None) -> Path:
    """Compute a study's results from its files and write its page.

    Args:
        out: The output folder that holds `runs/` and the study's folder.
        name: Of the study.
        study: The same, where it has been loaded.

    Returns:
        Path of `out/<name>/report/index.html`; figures and their CSV files lie in `figures/`
        beside it, all numbers in `out/<name>/results.parquet`.

    Raises:
        FileError: if there is no such study or a file of a finished run is damaged.
    """
    study = study or load_study(out, name)
    if study.record.measurement is None:
        write_results(out / name / "results.parquet", study.results)
    return write_page(study, out / name / "report")


def write_page(study: LoadedStudy, folder: Path, *, interactive: bool = True) -> Path:
    """Write the page, its figures and its ledger of claims into a folder.

    Args:
        study: What the page is about.
        folder: Where to.
        interactive: Whether figures can be looked into, by a script in the page, or are pictures.
    """
    entries, own = judge(study), judge_own(study)
    write_ledger(folder, entries, own_record(study, own))
    if study.record.measurement is not None:
        if study.timings is not None:
            overhead.write_rounds(folder / "rounds.csv", study.timings)
        return _write(folder, _render_measurement(study, study.record.measurement, entries))
    parts = parts_of(study)
    differences = main_differences(study.rows)
    for plot in differences:
        write_forest(plot, folder / "figures")
    for part in parts:
        for chart in part.charts.values():
            write_svg(chart, folder / "figures" / f"{chart.name}.svg")
            write_csv(chart, folder / "figures" / f"{chart.name}.csv")
    return _write(folder, render(study, parts, entries, differences, interactive=interactive))


def parts_of(study: LoadedStudy) -> list[RowPart]:
    """What the page says about each row alone, figures included."""
    parts = [
        row_part(row, anchor=f"row{number}", preset=study.record.preset)
        for number, row in enumerate(study.rows, start=1)
    ]
    return with_comparisons(study, parts)


def render(
    study: LoadedStudy,
    parts: Sequence[RowPart],
    entries: Sequence[Entry] = (),
    differences: Sequence[Differences] = (),
    *,
    interactive: bool = True,
) -> str:
    """The page as text."""
    record, rows = study.record, study.rows
    charts = [chart for part in parts for chart in part.charts.values()]
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            study=record,
            departures=departures(study),
            ddof0=any("sd" in row.paper_code for row in record.rows),
            own_rates=any("learning-rate" in row.paper_code for row in record.rows),
            parts=parts,
            headlines=[headline(row) for row in rows],
            ledger_says=ledger_says(entries),
            differences=differences,
            wrong_temperatures=[row.label for row in rows if row.noisy_temperature],
            tables=tables_of(study),
            transfers=transfer_tables(study),
            paper_table=paper_table(study),
            everywhere=note_everywhere(),
            scale=scale_notice(study),
            refits=any(row.refits for row in record.rows),
            controls=any(row.refits or "annealed" in row.follow_ups for row in record.rows),
            figure=_figure(record.preset),
            picture=_picture(study, parts),
            appendix=appendix(study),
            matched=[line for row in rows for line in matched(row)],
            cost=facts.cost(run for row in rows for run in row.runs.values()),
            trained_on="training window" if study.is_text else "training image",
            wall_time=duration(record.seconds),
            arms=[ARMS[arm] for arm in arms_in(rows, "refit") if arm in ARMS],
            bins=_bins(study),
            rules=list(RULE_NAMES.values()),
            others=other_methods(study),
            ledger=ledger_part(record, entries),
            own=own_part(study, judge_own(study)),
            alternatives={chart.name: alternative(chart) for chart in charts},
            specs={chart.name: spec(chart) for chart in charts} if interactive else {},
            duration=duration,
            counted=counted,
        )
    )


def _render_measurement(
    study: LoadedStudy, measured: MeasurementRecord, entries: Sequence[Entry]
) -> str:
    """The page of a study that measures."""
    timings = study.timings
    return (
        _templates()
        .get_template("overhead.html.j2")
        .render(
            study=study.record,
            measured=measured,
            timings=timings,
            notice=overhead.notice(measured, timings) if timings else [],
            columns=overhead.COLUMNS,
            lines=overhead.lines(timings) if timings else [],
            claims=overhead.claims(timings) if timings else [],
            machine=overhead.machine(timings) if timings else [],
            wall_time=duration(study.record.seconds),
            ledger=ledger_part(study.record, entries),
            scale=[],
        )
    )


def _write(folder: Path, html: str) -> Path:
    page = folder / "index.html"
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page


def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("polyak.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _figure(preset: str | None) -> str:
    """The figure of the paper that a study is for; empty where it is for none."""
    return preset.removeprefix("figure") if preset and preset.startswith("figure") else ""


def _picture(study: LoadedStudy, parts: Sequence[RowPart]) -> str:
    """The kind of chart that stands on the first screen: of one row that is no table or figure of
    the paper, the test curves; empty where there is none."""
    alone = len(parts) == 1 and study.record.preset is None and "test" in parts[0].charts
    return "test" if alone else ""


def _bins(study: LoadedStudy) -> str:
    sizes = sorted({row.test_images for row in study.rows if row.test_images})
    return joined([str(bins_for(size)) for size in sizes])
