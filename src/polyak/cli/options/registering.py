"""What a study claims beforehand, what its seeds can see, and its registration."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from polyak import __version__
from polyak.analysis.claims.power import Spread, earlier_spread, evidence_of, kept_spread, power
from polyak.analysis.results import read_results
from polyak.errors import FileError
from polyak.records.claims import SCALES
from polyak.records.registration import FILE, Power
from polyak.records.studies import StudyRecord
from polyak.report.numbers import counted
from polyak.report.sections.claims import words
from polyak.study.claims import seeds_of
from polyak.study.plan import Study
from polyak.study.registration import register

TABLES = ("results.parquet", "results.csv")
_UNITS = {"share": " of the run", "score": ""}


def seeing(study: Study, earlier: Path | None) -> tuple[Power, ...]:
    """What the seeds of a study's claims can see.

    Args:
        study: With claims that have no fault.
        earlier: A study's folder, or its table of results, that says how far seeds differ; None:
            what they do in the studies that the project keeps.
    """
    of_rows = {row.label: row.seeds for row in study.rows}
    seeds = {claim.id: seeds_of(claim, of_rows) for claim in study.claims}
    return power(study.claims, seeds, kept_spread if earlier is None else _spread(earlier))


def registered(record: StudyRecord, out: Path, seen: Sequence[Power]) -> list[str]:
    """Register a study's claims; lines about it for the terminal."""
    registration, new = register(record, out, power=seen, version=__version__)
    count = counted(len(registration.claims), "claim")
    runs = sum(len(by_seed) for row in record.rows for by_seed in row.search.values())
    said = f"registered: {count} of study {record.name}, none of {runs} runs of its search begun"
    if not new:
        said = f"registered already, on {registration.date}: {count} of study {record.name}"
    return [
        said,
        f"digest of claims and plan: {registration.digest[:12]}",
        f"record: {(out / record.name / FILE).resolve()}",
    ]


def claim_lines(study: Study, seen: Sequence[Power]) -> Iterator[str]:
    """What is claimed and what the seeds can see of it."""
    for claim in study.claims:
        yield f"{claim.id}: {claim.sentence}"
        for each in seen:
            if each.claim == claim.id:
                yield f"  {words(each.what)}"
                yield f"    {_seen(each)}"


def _seen(found: Power) -> str:
    if found.detectable is None or found.detectable_corrected is None or found.sd is None:
        return f"{found.seeds} seeds; no power is computed for every seed"
    shown = [
        f"{value / SCALES[found.unit]:.2g}"
        for value in (found.detectable, found.detectable_corrected, found.sd)
    ]
    unit = _UNITS.get(found.unit, f" {found.unit}")
    return (
        f"{found.seeds} seeds show what is {shown[0]}{unit} beyond the bound in 80 % of cases "
        f"({shown[1]} after correction, if no other claim is true); spread {shown[2]}, from "
        f"{found.source}"
    )


def _spread(place: Path) -> Spread:
    """How far seeds differ in an earlier study.

    Raises:
        FileError: if there is no table of its results.
    """
    tables = [place / name for name in TABLES] if place.is_dir() else [place]
    for table in tables:
        if table.is_file():
            return earlier_spread(evidence_of(read_results(table)), table.resolve().parent.name)
    raise FileError(
        f"spread-from is '{place}'; expected a study's folder or its {' or '.join(TABLES)}. "
        "Leave it out to take how far seeds differ in the kept studies."
    )
