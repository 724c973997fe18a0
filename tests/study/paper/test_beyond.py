"""The studies beyond the paper: no size has a fault, and every claim can be judged."""

from dataclasses import replace

import pytest

from polyak.cli.main import main
from polyak.errors import ConfigError
from polyak.records.vocabulary import MORE_AVERAGES, WINDOWS
from polyak.study.options import with_rows
from polyak.study.paper.beyond.sizes import IMAGES, SCALES, TEXT
from polyak.study.paper.presets import BEYOND, preset
from polyak.study.plan import search

EVERY = [(name, scale) for name in BEYOND for scale in SCALES]


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_every_size_is_a_study_without_a_fault(name, scale):
    study = preset(name, scale=scale).settled()
    assert study.name == f"{name}-{scale}"
    assert len(study.claims) >= 6
    seeds = {row.label: row.seeds for row in study.rows}
    assert all(
        claim.seeds == seeds[label]
        for claim in study.claims
        for comparison in claim.comparisons
        for label in comparison.rows
    )
    assert set(seeds) == {label for c in study.claims for e in c.comparisons for label in e.rows}


@pytest.mark.parametrize("name", BEYOND)
def test_both_sizes_claim_the_same_of_what_their_windows_are_called(name):
    small, tiny = (preset(name, scale=scale).settled() for scale in ("small", "tiny"))
    assert [(c.id, c.sentence) for c in small.claims] == [(c.id, c.sentence) for c in tiny.claims]
    assert [row.label for row in small.rows] == [row.label for row in tiny.rows]


def test_there_are_five_seeds_where_numbers_mean_something_and_ten_of_text():
    assert len(IMAGES["small"].seeds) >= 5
    assert len(TEXT["small"].seeds) >= 10


@pytest.mark.parametrize("scale", SCALES)
def test_batchnorm_is_taken_out_and_nothing_else_is_changed(scale):
    batch, group = preset("beyond-norm", scale=scale).rows
    assert (batch.config.model.norm, group.config.model.norm) == ("batch", "group")
    # What changes no training: recomputation, which only BatchNorm has, and what runs along.
    same = {name: getattr(group.config, name) for name in ("batchnorm_images", "more_averages")}
    same["model"] = group.config.model
    assert replace(batch.config, **same) == group.config
    assert (batch.seeds, batch.learning_rates) == (group.seeds, group.learning_rates)


@pytest.mark.parametrize("scale", SCALES)
def test_the_rows_of_a_transformer_vary_the_first_in_one_respect(scale):
    rows = preset("beyond-transformers", scale=scale).rows
    # What runs along, which changes no training, is for beyond-averages.
    same = [replace(row, config=replace(row.config, more_averages=())) for row in rows]
    vit, constant, wrong, gpt, *others, muon = same
    assert all({*WINDOWS} <= {*row.config.more_averages} for row in rows)
    optim = replace(vit.config.optim, schedule="constant")
    assert constant.config == replace(vit.config, optim=optim)
    assert wrong.config == replace(vit.config, data=wrong.config.data)
    assert replace(wrong.config.data, noise=vit.config.data.noise) == vit.config.data
    assert [row.config.optim.schedule for row in others] == ["wsd", "constant"]
    for row in others:
        optim = replace(gpt.config.optim, schedule=row.config.optim.schedule)
        assert row.config == replace(gpt.config, optim=optim)
    assert muon.config == replace(gpt.config, optim=muon.config.optim)
    assert (muon.config.optim.name, muon.config.optim.schedule) == ("muon", "cosine")
    for row in (constant, wrong, *others, muon):
        first = gpt if row.label.startswith("GPT") else vit
        assert (row.against, row.seeds, row.refits) == (first.label, first.seeds, False)


def test_halves_of_the_transformers_are_studies_with_the_claims_that_are_about_them():
    whole = preset("beyond-transformers", scale="small").settled()
    halves = [with_rows(whole, [name]).settled() for name in ("ViT", "GPT")]
    assert [half.name for half in halves] == [f"{whole.name}-vit", f"{whole.name}-gpt"]
    assert tuple(row for half in halves for row in half.rows) == whole.rows
    assert tuple(claim for half in halves for claim in half.claims) == whole.claims


@pytest.mark.parametrize("name", ["gpt", "gpt-constant", "vit"])
def test_of_the_three_windows_one_claim_can_be_true_at_most(name):
    claims = {claim.id: claim for claim in preset("beyond-transformers", scale="small").claims}
    better = {
        (comparison.arm, comparison.against)
        for window in ("1", "7", "10")
        for comparison in claims[f"{name}-window-{window}"].comparisons
    }
    # Each of two is claimed to be better than the other, in claims of their own.
    assert len(better) == 6
    assert better == {(worse, best) for best, worse in better}


@pytest.mark.parametrize("scale", SCALES)
def test_kinds_of_averages_are_compared_in_the_runs_of_the_other_studies(scale):
    rows = {
        row.label: row
        for name in ("beyond-norm", "beyond-transformers")
        for row in preset(name, scale=scale).rows
    }
    resnet, vit, gpt = preset("beyond-averages", scale=scale).rows
    assert search(resnet) == search(rows["BatchNorm"])
    assert (vit, gpt) == (rows[vit.label], rows[gpt.label])
    for row in (resnet, vit, gpt):
        assert {*MORE_AVERAGES} <= {*row.config.more_averages}
        assert row.follow_ups == ("annealed",)


def test_data_of_ones_own_stands_in_its_place_and_in_the_name():
    places = {"cifar10": "data/JPEGs", "cifar10n": "labels.pt"}
    study = preset("beyond-transformers", scale="tiny", places=places)
    assert study.name == "beyond-transformers-tiny-jpegs"
    assert {row.config.data.source for row in study.rows} == {"data/JPEGs", "text:stdlib"}
    assert study.rows[2].config.data.noise.file == "labels.pt"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "scale is ''; expected one of small, tiny. Give it with --scale"),
        ({"scale": "paper"}, "scale is 'paper'; expected one of small, tiny"),
        ({"scale": "tiny", "places": {"cifar100": "x"}}, "'cifar100'; expected one of cifar10"),
        ({"scale": "tiny", "controls": True}, "controls is given; expected none"),
    ],
)
def test_what_it_does_not_have_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        preset("beyond-norm", **given)


def test_they_are_listed(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in BEYOND:
        assert f"{name}  " in text
    assert "four hours on one core" in text
