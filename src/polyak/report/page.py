"""The report of a study."""

from pathlib import Path

from polyak.analysis.results import study_results, write_results
from polyak.records.studies import read_study


def write_report(out: Path, name: str) -> Path:
    """Compute a study's results from its files and write its page."""
    study = read_study(out / name)
    write_results(out / name / "results.parquet", study_results(out, study))
    return out / name
