"""The exponential moving average: formula, units of its decay, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyak.averaging.kinds import EMA, Update, as_average
from polyak.errors import ConfigError

decays = st.floats(0.0, 0.99999)


def ema_decay(average, *, index, step=None):
    return 1 - average.weight(Update(index, step or index + 1, 1), folded=index)


@pytest.mark.parametrize("t", [0, 1, 2, 7, 100])
def test_the_warm_up_is_that_of_the_paper(t):
    """C2: at t = 0 torch-ema has 2/11 and diffusers 0; the paper's code has 1/10."""
    assert ema_decay(EMA(0.9999), index=t) == pytest.approx((t + 1) / (t + 10), abs=1e-15)


@given(decay=decays)
def test_warm_up_ends_at_the_decay_and_stays_there(decay):
    average = EMA(decay)
    end = average.warmup_updates
    assert ema_decay(average, index=end) == pytest.approx(decay, abs=1e-15)
    assert ema_decay(average, index=10 * end + 7) == pytest.approx(decay, abs=1e-15)


@given(decay=decays)
def test_warm_up_ends_at_the_first_t_whose_ramp_reaches_the_decay(decay):
    t = EMA(decay).warmup_updates
    assert (t + 1) / (t + 10) >= decay
    assert t == 0 or t / (t + 9) < decay


def test_the_papers_largest_decay_leaves_warm_up_at_t_4490():
    assert EMA(0.998).warmup_updates == 4490


@given(decay=decays, t=st.integers(0, 10_000))
def test_the_ramp_governs_exactly_while_it_does_not_exceed_the_decay(decay, t):
    governed = EMA(decay).warms_up_at(t)
    assert governed == ((t + 1) / (t + 10) <= decay)
    assert not EMA(decay, warmup=None).warms_up_at(t)


def test_without_warm_up_the_decay_is_constant():
    """C2: diffusers warms up although it was told not to."""
    average = EMA(0.99, warmup=None)
    assert [ema_decay(average, index=t) for t in (0, 1, 500)] == pytest.approx([0.99] * 3)


def test_the_counter_of_warm_up_can_be_steps():
    """C2: updates or steps is another experiment, so the unit is a setting."""
    moment = Update(index=1, step=32, since=16)
    assert EMA(0.999).weight(moment, 1) == pytest.approx(1 - 2 / 11)
    assert EMA(0.999, warmup_counts="steps").weight(moment, 1) == pytest.approx(1 - 32 / 41)


@given(decay=st.floats(0.5, 0.99999), every=st.integers(1, 100))
def test_a_decay_per_step_keeps_its_horizon_when_the_period_changes(decay, every):
    """C15: in other tools a change of the period multiplies the horizon in silence."""
    per_update = EMA.per_step(decay, warmup=None).at_period(every)
    assert per_update.decay == pytest.approx(decay**every, rel=1e-12)
    assert per_update.label == EMA.per_step(decay).label
    assert per_update.at_period(every) == per_update


def test_a_decay_per_update_is_what_it_says_at_every_period():
    assert EMA(0.998).at_period(16) == EMA(0.998)


@given(half=st.floats(1.0, 1e6))
def test_the_weight_of_an_iterate_halves_in_a_half_life_of_steps(half):
    assert EMA.halflife(steps=half).decay ** half == pytest.approx(0.5, rel=1e-6)


def test_half_lives_in_epochs_and_samples_are_converted_to_steps():
    steps = EMA.halflife(steps=200).decay
    assert EMA.halflife(epochs=0.5, steps_per_epoch=400).decay == pytest.approx(steps)
    assert EMA.halflife(samples=25_600, batch_size=128).decay == pytest.approx(steps)


@pytest.mark.parametrize(
    ("lengths", "named"),
    [
        ({}, "exactly one"),
        ({"steps": 3, "epochs": 2, "steps_per_epoch": 5}, "exactly one"),
        ({"epochs": 2}, "with steps_per_epoch"),
        ({"samples": 2}, "with batch_size"),
        ({"samples": 2, "batch_size": 0}, "with batch_size"),
        ({"samples": -2, "batch_size": -1}, "samples is -2"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": -5.0}, "steps is -5.0"),
        ({"steps": math.inf}, "steps is inf"),
        ({"steps": math.nan}, "steps is nan"),
    ],
)
def test_a_half_life_that_means_nothing_is_refused(lengths, named):
    with pytest.raises(ConfigError, match=named):
        EMA.halflife(**lengths)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ConfigError, match=r"decay is .*; expected 0 <= decay < 1"):
        EMA(decay)


def test_all_faults_of_an_ema_come_in_one_message():
    with pytest.raises(ConfigError) as caught:
        EMA(2.0, warmup="linear", warmup_counts="epochs", per="epoch")
    words = ("decay is 2.0", "'linear'", "'epochs'", "'epoch'")
    assert all(word in str(caught.value) for word in words)


@given(decay=decays, first=st.floats(0.1, 10.0), second=st.floats(0.1, 10.0))
def test_batch_scalings_compose(decay, first, second):
    """Busbridge et al.: a batch κ times as large takes decay^κ, so that κ's multiply."""
    once = EMA(decay).scaled_batch(first * second).decay
    assert EMA(decay).scaled_batch(first).scaled_batch(second).decay == pytest.approx(once)
    back = EMA(decay).scaled_batch(first).scaled_batch(1 / first).decay
    assert back == pytest.approx(decay, rel=1e-9, abs=1e-12)


@given(half=st.floats(1000.0, 1e6), kappa=st.sampled_from([2, 4, 32]))
def test_a_half_life_in_samples_outlasts_a_change_of_the_batch(half, kappa):
    small = EMA.halflife(samples=half, batch_size=8)
    large = EMA.halflife(samples=half, batch_size=8 * kappa)
    assert small.scaled_batch(kappa).decay == pytest.approx(large.decay, rel=1e-9)


@given(decay=decays, kappa=st.floats(0.1, 10.0), every=st.integers(1, 50))
def test_scaling_for_the_batch_and_for_the_period_commute(decay, kappa, every):
    average = EMA.per_step(decay)
    there = average.scaled_batch(kappa).at_period(every).decay
    assert average.at_period(every).scaled_batch(kappa).decay == pytest.approx(there, rel=1e-9)


@pytest.mark.parametrize("kappa", [0, -2.0, math.inf, math.nan])
def test_a_batch_scaling_that_means_nothing_is_refused(kappa):
    with pytest.raises(ConfigError, match=r"kappa is .*; expected > 0"):
        EMA(0.9).scaled_batch(kappa)


def test_scaling_keeps_everything_but_the_decay_and_says_so():
    scaled = EMA(0.9, "yolo", "steps", "mine").scaled_batch(2)
    assert scaled == EMA(0.9**2, "yolo", "steps", "mine_batch_x2")
    assert EMA(0.9).scaled_batch(2).label == "ema_0.81"
    assert EMA.per_step(0.9).scaled_batch(2, name="new") == EMA.per_step(0.9**2, name="new")


def test_numbers_of_numpy_are_decays_and_text_is_none():
    assert EMA(np.float32(0.5)) == EMA(0.5) == as_average(np.float64(0.5))
    assert type(EMA(np.float32(0.5)).decay) is float
    with pytest.raises(ConfigError, match=r"decay is '0\.9'; expected a number"):
        EMA("0.9")
