"""A small study written by hand, and its page."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from support.small_study import whole_row, write_rows, write_run

from polyak.records.studies import StudyRecord
from polyak.report.page import write_report


@pytest.fixture(scope="session")
def written_by_hand() -> SimpleNamespace:
    """Writers of a row with all its runs, and of a run."""
    return SimpleNamespace(row=whole_row, run=write_run)


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> tuple[Path, StudyRecord]:
    """A whole study of one row with two seeds, and its page."""
    out = tmp_path_factory.mktemp("toy")
    study = write_rows(out, whole_row(out, "toy row"))
    write_report(out, "toy")
    return out, study


@pytest.fixture
def page(toy) -> str:
    out, _ = toy
    return (out / "toy" / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def by_hand():
    """The functions that write a whole row and a single run, for studies of other shapes."""
    return whole_row, write_run
