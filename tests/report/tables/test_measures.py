"""Measures, and the cells that tables share, exist once each."""

import ast
from pathlib import Path

import polyak.report
from polyak.report.tables import measures
from polyak.report.tables.measures import CHURN, LOSS, Measure, as_printed

REPORT = Path(polyak.report.__file__).parent
TREES = {
    str(path.relative_to(REPORT)): ast.parse(path.read_text(encoding="utf-8"))
    for path in REPORT.rglob("*.py")
}


def users(name: str) -> set[str]:
    """The modules that call a function by its name."""
    return {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    }


def test_measures_are_made_in_one_place():
    assert users("Measure") == {"tables/measures.py"}


def test_each_metric_has_one_measure():
    found = [x.metric for x in vars(measures).values() if isinstance(x, Measure)]
    assert len(found) == len(set(found)) >= 12


def test_differences_are_paired_in_one_cell_one_sentence_and_one_plot():
    assert users("paired_difference") == {
        "tables/cells.py",
        "sections/summary.py",
        "figures/differences.py",
    }


def test_beside_the_papers_numbers_ours_have_its_decimals():
    assert (as_printed(CHURN).digits, as_printed(LOSS).digits) == (2, 2)
    assert as_printed(measures.JS) == measures.JS


def test_a_difference_of_percentages_is_in_points():
    assert CHURN.difference_unit == "points"
    assert LOSS.difference_unit == "nats"
