from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyak.errors import ConfigError
from polyak.study.fitting import PAPER_UPDATES, fit_decays, scaled_decays
from polyak.study.paper.presets import preset
from polyak.training.config import PAPER_DECAYS


def test_papers_updates_are_those_of_its_run():
    assert PAPER_UPDATES == 200 * 391 // 16


def test_the_papers_run_has_the_papers_decays():
    assert scaled_decays(PAPER_UPDATES) == PAPER_DECAYS


@given(st.integers(50, 100_000), st.sampled_from(PAPER_DECAYS))
def test_a_scaled_decay_forgets_as_much_over_the_whole_run(updates, decay):
    (scaled,) = scaled_decays(updates, paper=(decay,), digits=15)
    assert scaled**updates == pytest.approx(decay**PAPER_UPDATES, rel=1e-6)


@given(st.integers(100, 10_000))
def test_scaled_decays_are_a_bank(updates):
    decays = scaled_decays(updates)
    assert list(decays) == sorted(set(decays))
    assert all(0 < d < 1 for d in decays)


def test_the_demos_decays_are_fitted_to_its_updates():
    """72 % of 1,437 digits remain after hold-out; the decays are for the search's updates."""
    (row,) = preset("demo").rows
    config = row.config
    steps = -(-int(1437 * 0.8) // config.batch_size)
    updates = config.epochs * steps // config.averaging.every
    assert config.averaging.decays == scaled_decays(updates)


def test_decays_without_a_papers_length_stay_as_they_are(row):
    assert fit_decays(row, train_images=7) == row


def test_a_run_too_short_for_different_decays_is_refused_by_its_row(row):
    row = replace(row, paper_updates=100_000, paper_decays=(0.968, 0.984))
    with pytest.raises(ConfigError, match=r"small digits: the run has \d updates"):
        fit_decays(row, train_images=90)
