"""Lengths in other units than steps, and decays for runs of another length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import net, walk

from polyak import EMA, Averager, Uniform, as_steps
from polyak.averaging.kinds.lengths import REFERENCE_UPDATES, fitted_decays
from polyak.errors import ConfigError

PAPER = (0.968, 0.984, 0.992, 0.996, 0.998)


def test_lengths_are_steps_whatever_they_are_given_in():
    assert as_steps(epochs=2.5, steps_per_epoch=100) == 250
    assert as_steps(samples=1000, batch_size=32) == 31
    assert as_steps(samples=1, batch_size=32) == 1
    assert EMA(0.9, start=as_steps(epochs=1, steps_per_epoch=5)).start == 5


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epochs": 1},
        {"samples": 8},
        {"epochs": 1, "samples": 8, "batch_size": 2},
        {"epochs": 0, "steps_per_epoch": 3},
        {"epochs": -1, "steps_per_epoch": 3},
    ],
)
def test_a_length_that_is_none_is_refused(settings):
    with pytest.raises(ConfigError, match="length"):
        as_steps(**settings)


@given(st.integers(50, 10_000_000), st.sampled_from(PAPER))
def test_a_fitted_decay_leaves_the_same_share_of_the_run(updates, decay):
    [fitted] = fitted_decays([decay], updates=updates, digits=15)
    assert fitted**updates == pytest.approx(decay**REFERENCE_UPDATES, rel=1e-4)


@given(st.integers(200, 100_000_000))
def test_rounded_to_three_digits_they_are_still_a_bank(updates):
    decays = fitted_decays(PAPER, updates=updates)
    assert sorted(set(decays)) == list(decays)
    assert all(0 < d < 1 for d in decays)


def test_a_bank_that_knows_its_run_has_no_average_twice():
    """Newcomer's bank: five decays as they are would be one average for all of a short run."""
    model, steps = net(), 250
    unfitted, fitted = Averager(model, PAPER), Averager(model, PAPER, total_steps=steps)
    for averager in (unfitted, fitted):
        walk(averager, model, range(steps))
    assert unfitted.coinciding() == [list(unfitted.names)]
    assert fitted.coinciding() == []
    expected = [round(d ** (REFERENCE_UPDATES / steps), 3) for d in PAPER]
    assert [float(name.removeprefix("ema_")) for name in fitted.names] == pytest.approx(
        expected, abs=5e-4
    )


def test_the_length_is_that_of_updates_and_kinds_stay_as_they_are():
    kinds = [0.998, EMA(0.9), Uniform()]
    averager = Averager(net(), kinds, every=16, total_steps=16 * 540)
    assert averager.names == ("ema_0.982", "ema_0.9", "uniform")
    as_long = Averager(net(), [0.998], every=16, total_steps=16 * REFERENCE_UPDATES + 15)
    assert as_long.names == ("ema_0.998",)
    assert Averager(net(), 0.998, total_steps=540).names == ("ema_0.982",)


@pytest.mark.parametrize("total", [0, -5, 15, 1.5, True])
def test_a_run_without_an_update_is_refused(total):
    with pytest.raises(ConfigError, match=f"total_steps is {total!r}; expected optimizer steps"):
        Averager(net(), 0.9, every=16, total_steps=total)


def test_a_run_too_short_for_decays_that_differ_is_refused():
    with pytest.raises(ConfigError, match="the run has 3 updates of its averages"):
        Averager(net(), PAPER, total_steps=3)


def test_what_is_no_decay_is_refused_as_ever():
    with pytest.raises(ConfigError, match=r"decay is 1\.5"):
        Averager(net(), [0.9, 1.5], total_steps=1000)
