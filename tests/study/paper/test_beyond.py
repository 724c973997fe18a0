"""The studies beyond the paper: no size has a fault, and every claim can be judged."""

from dataclasses import replace

import pytest

from polyak.cli.main import main
from polyak.errors import ConfigError
from polyak.study.paper.beyond import SIZES
from polyak.study.paper.presets import BEYOND, preset

EVERY = [(name, scale) for name in BEYOND for scale in SIZES]


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_every_size_is_a_study_without_a_fault(name, scale):
    study = preset(name, scale=scale).settled()
    assert study.name == f"{name}-{scale}"
    assert len(study.claims) >= 6
    assert all(claim.seeds == SIZES[scale].seeds for claim in study.claims)


@pytest.mark.parametrize("name", BEYOND)
def test_both_sizes_claim_the_same_of_what_their_windows_are_called(name):
    small, tiny = (preset(name, scale=scale).settled() for scale in ("small", "tiny"))
    assert [(c.id, c.sentence) for c in small.claims] == [(c.id, c.sentence) for c in tiny.claims]
    assert [row.label for row in small.rows] == [row.label for row in tiny.rows]


def test_there_are_five_seeds_where_numbers_mean_something():
    assert len(SIZES["small"].seeds) >= 5


@pytest.mark.parametrize("scale", SIZES)
def test_batchnorm_is_taken_out_and_nothing_else_is_changed(scale):
    batch, group = preset("beyond-norm", scale=scale).rows
    assert (batch.config.model.norm, group.config.model.norm) == ("batch", "group")
    # That is about the recomputation alone, which only the one with BatchNorm has.
    same = {"batchnorm_images": group.config.batchnorm_images, "model": group.config.model}
    assert replace(batch.config, **same) == group.config
    assert (batch.seeds, batch.learning_rates) == (group.seeds, group.learning_rates)


@pytest.mark.parametrize("scale", SIZES)
def test_the_rows_of_the_transformer_vary_the_first_in_one_respect(scale):
    cosine, constant, wrong = preset("beyond-transformers", scale=scale).rows
    optim = replace(cosine.config.optim, schedule="constant")
    assert constant.config == replace(cosine.config, optim=optim)
    assert wrong.config == replace(cosine.config, data=wrong.config.data)
    assert replace(wrong.config.data, noise=cosine.config.data.noise) == cosine.config.data


def test_data_of_ones_own_stands_in_its_place_and_in_the_name():
    places = {"cifar10": "data/JPEGs", "cifar10n": "labels.pt"}
    study = preset("beyond-transformers", scale="tiny", places=places)
    assert study.name == "beyond-transformers-tiny-jpegs"
    assert {row.config.data.source for row in study.rows} == {"data/JPEGs"}
    assert study.rows[-1].config.data.noise.file == "labels.pt"


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
    assert "five hours on one core" in text
