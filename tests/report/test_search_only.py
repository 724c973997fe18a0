"""A study that refits nothing, such as table 5 and the figures."""

from dataclasses import replace

import pytest
from support.slow_results import values
from support.small_runs import run_in_process, small_run

from polyak.analysis.loaded import load_recorded_study, load_study
from polyak.report.facts import problems, reason
from polyak.report.figures.training_curves import row_charts
from polyak.report.page import render
from polyak.report.sections.claims import judge
from polyak.report.sections.row import row_part
from polyak.report.sections.summary import headline
from polyak.report.tables.comparisons import budget_table
from polyak.report.tables.paper_methods import paper_table
from polyak.study.plan import Row, Study


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


def test_a_study_of_ones_own_that_refits_nothing_is_no_table_of_the_paper(searched):
    own = replace(searched, record=replace(searched.record, preset=None))
    rows = (own.rows[0], changed(own.rows[0], label="another"))
    assert paper_table(replace(own, rows=rows)) is None
    refitted = (rows[0], changed(rows[1], refits=True))
    assert paper_table(replace(own, rows=refitted)).number == 1


@pytest.fixture(scope="module")
def annealed(tmp_path_factory):
    """A study whose search is run, chosen from, and annealed in the average's budget."""
    row = Row(
        label="digits",
        dataset="digits",
        architecture="ResNet-8",
        config=replace(small_run(), epochs=5),
        learning_rates=(0.1,),
        seeds=(0, 1),
        paper_decays=(0.968, 0.998),
        refits=False,
        follow_ups=("annealed",),
    )
    study = Study(name="annealed", title="Annealed", cost="seconds", rows=(row,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("annealed")
        outcome = run_in_process(study, out)
        assert (outcome.failures, outcome.row_failures) == ({}, {})
        yield load_study(out, "annealed")


def test_sgd_annealed_in_the_averages_budget_stands_beside_the_searchs_models(annealed):
    (row,) = annealed.rows
    lengths = {s: run.config["epochs"] for s, run in row.done("annealed").items()}
    chosen = {s: next(x.epoch for x in row.record.stops[s] if x.rule == "acc") for s in "01"}
    assert lengths == {seed: max(epoch, 2) for seed, epoch in chosen.items()}
    table = budget_table(annealed.rows)
    lines = {line.label: line for line in table.groups[0].lines}
    ours, theirs = (
        values(annealed.results, row="digits", arm=arm, metric="accuracy", phase=phase)
        for arm, phase in (("ema_acc_bn", "search"), ("sgd", "annealed"))
    )
    difference = 100 * sum(ours[s] - theirs[s] for s in "01") / 2
    cell = lines["EMA (acc.) + BN, whole schedule"].cells[2]
    assert float(cell.text.replace("−", "-")) == pytest.approx(difference, abs=0.051)
    assert lines["SGD, whole schedule"].cells[0].text == "5"
    epochs = lines["EMA (acc.) + BN, whole schedule"].cells[0].text
    assert float(epochs) == sum(chosen.values()) / 2
    # A shortened search has its own choice, and the study's record is not about it.
    assert lines["EMA (acc.) + BN, annealed early"].cells[0].text == "–"


def test_its_page_and_its_ledger_are_about_the_searchs_models(annealed):
    entries = judge(annealed)
    (entry,) = (entry for entry in entries if entry.claim.id == "annealed")
    assert entry.verdict != "not run"
    parts = [replace(row_part(row, anchor="r", preset=None), charts={}) for row in annealed.rows]
    page = render(annealed, parts, entries=entries)
    assert "<h3>The same budget for SGD</h3>" in page
    assert "training on the search’s images with a cosine" in page
    assert 'href="#controls"' in page
    assert "stopped where its hold-out says" in page
