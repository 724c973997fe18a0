"""A study that refits nothing, such as table 5 and the figures."""

from dataclasses import dataclass, fields, replace

import pytest

from polyak.analysis.results import study_results, values
from polyak.records.studies import RowRecord
from polyak.report.facts import problems, reason
from polyak.report.figures.training_curves import row_charts
from polyak.report.page import render
from polyak.report.sections.row import row_part
from polyak.report.sections.summary import headline
from polyak.report.tables.paper_methods import paper_form


@dataclass(frozen=True, kw_only=True)
class SearchOnly(RowRecord):
    """A row whose study wants models of the search alone."""

    refits: bool = False


@pytest.fixture(scope="module")
def searched(toy):
    """A row, its output folder and its results."""
    out, study = toy
    given = {f.name: getattr(study.rows[0], f.name) for f in fields(study.rows[0])}
    more = {"refits": False, "refit": {}, "transfer": {}, "label": "searched"}
    row = SearchOnly(**{**given, **more, "dataset": "CIFAR-100", "architecture": "ResNet-18"})
    record = replace(study, name="table5-tiny", rows=(row,))
    return out, record, study_results(out, record)


def test_what_needs_refits_says_that_there_are_none(searched):
    out, study, _ = searched
    row = study.rows[0]
    assert reason(out, row, "refit") == "no refits in this study"
    assert reason(out, row, "search") == "not measured"
    assert not any("refit" in found for found in problems(out, row))


def test_test_curves_come_from_the_search(searched):
    out, study, _ = searched
    row = replace(study.rows[0], dataset="CIFAR-100N")
    chart = row_charts(out, row, prefix="r", preset="figure2")["test"]
    assert chart.title == "On the test set, during the search (the paper’s figure 2)"
    assert "authors’ own curves" in chart.caption


def test_page_has_the_searchs_numbers_and_no_section_of_refits(searched):
    out, study, results = searched
    part = row_part(out, study.rows[0], results, anchor="r", preset="table5")
    page = render(out, study, results, [replace(part, charts={})], entries=[])
    assert "As in the paper: table 5" in page
    assert "this study trains nothing again on all images" in page
    assert 'id="calibration"' in page
    assert 'id="generalisation"' not in page
    assert 'href="#generalisation"' not in page


def test_the_headline_is_about_the_searchs_models_and_says_so(searched):
    out, study, results = searched
    row = study.rows[0]
    ours, sgd = (
        values(results, row=row.label, arm=arm, metric="accuracy", phase="search")
        for arm in ("ema_acc_bn", "sgd")
    )
    found = headline(out, row, results)
    assert found.verdict != "missing"
    for by_seed in (ours, sgd):
        assert f"{100 * sum(by_seed.values()) / len(by_seed):.1f} %" in found.text
    assert "Models of the search only" in found.more[0]


def test_rows_of_the_paper_that_a_smaller_network_replaces_stand_alone(searched):
    out, study, results = searched
    row = replace(study.rows[0], architecture="ResNet-8 of width 4")
    form = paper_form(out, replace(study, rows=(row,)), results)
    ours, *papers = form.lines
    assert ours.remark == "ours is ResNet-8 of width 4, no reproduction"
    assert not any(place.paper for place in ours.places)
    assert all(place.ours.text and not place.ours.missing for place in ours.places)
    assert [line.heads for line in papers][:2] == [
        ("CIFAR-100", "ResNet-18"),
        ("CIFAR-100", "VGG-16"),
    ]
    assert len(papers) == 5
    for line in papers:
        assert line.remark == "the paper’s alone, not in this study"
        assert all(place.ours is None and place.paper for place in line.places)
