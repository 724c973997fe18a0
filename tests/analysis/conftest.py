"""A small study written by hand."""

from pathlib import Path

import pytest
from support.small_study import whole_row, write_rows

from polyak.records.studies import StudyRecord


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> tuple[Path, StudyRecord]:
    """A whole study of one row with two seeds."""
    out = tmp_path_factory.mktemp("toy")
    return out, write_rows(out, whole_row(out, "toy row"))
