"""A study that refits nothing, such as table 5 and the figures."""

from dataclasses import replace

import pytest
from support.slow_results import values

from polyak.analysis.loaded import load_recorded_study
from polyak.report.facts import problems, reason
from polyak.report.figures.training_curves import row_charts
from polyak.report.page import render
from polyak.report.sections.row import row_part
from polyak.report.sections.summary import headline
from polyak.report.tables.paper_methods import paper_table


@pytest.fixture(scope="module")
def searched(toy):
    """A study of one row without refits."""
    out, study = toy
    row = replace(
        study.rows[0],
        label="searched",
        dataset="CIFAR-100",
        architecture="ResNet-18",
        refits=False,
        refit={},
        transfer={},
    )
    return load_recorded_study(out, replace(study, preset="table5", scale="tiny", rows=(row,)))


def changed(row, **changes):
    return replace(row, record=replace(row.record, **changes))


def test_what_needs_refits_says_that_there_are_none(searched):
    (row,) = searched.rows
    assert reason(row, "refit") == "no refits in this study"
    assert reason(row, "search") == "not measured"
    assert not any("refit" in found for found in problems(row))


def test_test_curves_come_from_the_search(searched):
    row = changed(searched.rows[0], dataset="CIFAR-100N")
    chart = row_charts(row, prefix="r", preset="figure2")["test"]
    assert chart.title == "On the test set, during the search (the paper’s figure 2)"
    assert "authors’ own curves" in chart.caption


def test_page_has_the_searchs_numbers_and_no_section_of_refits(searched):
    part = row_part(searched.rows[0], anchor="r", preset="table5")
    page = render(searched, [replace(part, charts={})], entries=[])
    assert "As in the paper: table 5" in page
    assert "this study trains nothing again on all training data" in page
    assert 'id="calibration"' in page
    assert 'id="generalisation"' not in page
    assert 'href="#generalisation"' not in page


def test_the_headline_is_about_the_searchs_models_and_says_so(searched):
    (row,) = searched.rows
    ours, sgd = (
        values(searched.results, row=row.label, arm=arm, metric="accuracy", phase="search")
        for arm in ("ema_acc_bn", "sgd")
    )
    found = headline(row)
    assert found.verdict != "missing"
    for by_seed in (ours, sgd):
        assert f"{100 * sum(by_seed.values()) / len(by_seed):.1f} %" in found.text
    assert "Models of the search only" in found.more[0]


def test_rows_of_the_paper_that_a_smaller_network_replaces_stand_alone(searched):
    row = changed(searched.rows[0], architecture="ResNet-8 of width 4")
    form = paper_table(replace(searched, rows=(row,)))
    ours, *papers = form.lines
    assert ours.remark == "ours is ResNet-8 of width 4, no reproduction"
    assert not any(cell.paper for cell in ours.cells)
    assert all(cell.ours.text and not cell.ours.missing for cell in ours.cells)
    assert [line.heads for line in papers][:2] == [
        ("CIFAR-100", "ResNet-18"),
        ("CIFAR-100", "VGG-16"),
    ]
    assert len(papers) == 5
    for line in papers:
        assert line.remark == "the paper’s alone, not in this study"
        assert all(cell.ours is None and cell.paper for cell in line.cells)
