"""The one command that writes measured tables into pages, as far as it measures nothing."""

import importlib.util
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGE = """\
Before.

<!-- measured: benchmarks/a.py {abc}/src src -->
old
<!-- end -->

Between.

<!-- measured: benchmarks/b.py --rounds 2 -->
<!-- end -->
"""


@pytest.fixture(scope="module")
def every():
    """benchmarks/all.py, which is no package's."""
    path = REPOSITORY / "benchmarks" / "all.py"
    spec = importlib.util.spec_from_file_location("benchmarks_all", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_commands_of_a_page_are_found_in_order(every):
    wanted = ["benchmarks/a.py {abc}/src src", "benchmarks/b.py --rounds 2"]
    assert every.commands_in(PAGE) == wanted


def test_a_table_goes_between_its_comments_and_nothing_else_changes(every):
    tables = {"benchmarks/b.py --rounds 2": "| a |\n|---|\n| 1 |\n"}
    written = every.with_tables(PAGE, tables)
    assert written == PAGE.replace("--rounds 2 -->\n", "--rounds 2 -->\n| a |\n|---|\n| 1 |\n")
    assert every.with_tables(written, tables) == written
    assert every.with_tables(written, {"benchmarks/b.py --rounds 2": ""}) != written


def test_what_a_script_says_around_its_tables_is_left_out(every):
    printed = "torch 2\n\n| a |\n|---|\n\nmore\nwords\n\n| b |\n|---|\nend\n"
    assert every.tables_in(printed) == "| a |\n|---|\n\n| b |\n|---|"


def test_every_table_of_a_page_is_of_a_script_that_exists(every):
    found = [command for page in every.PAGES for command in every.commands_in(page.read_text())]
    assert found
    assert all((REPOSITORY / command.split()[0]).is_file() for command in found)


def test_machine_and_date_are_said(every):
    assert "torch" in every.machine()
    assert sys.platform != "linux" or "cores of" in every.machine()
