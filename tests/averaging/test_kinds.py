"""The schedules of lerp weights: formulas, units, names, records."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import lerp_weight, profile

from polyak.averaging.kinds import (
    EMA,
    PowerEMA,
    Uniform,
    Update,
    as_average,
    from_record,
    to_record,
)
from polyak.errors import ConfigError

decays = st.floats(0.0, 0.99999)
gammas = st.floats(0.05, 60.0)
kinds = st.one_of(
    st.builds(EMA, decays, warmup=st.sampled_from(["paper", None])),
    st.builds(EMA, decays, warmup_counts=st.sampled_from(["updates", "steps"])),
    st.builds(PowerEMA, gamma=gammas),
    st.builds(Uniform, start=st.integers(0, 40)),
)


def ema_decay(average, *, index, step=None):
    return 1 - average.weight(Update(index, step or index + 1, 1), folded=index)


# EMA


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
        EMA(2.0, warmup="linear", warmup_counts="epochs")
    assert all(word in str(caught.value) for word in ("decay is 2.0", "'linear'", "'epochs'"))


# PowerEMA


@given(sigma=st.floats(0.005, 0.28))
def test_sigma_rel_and_gamma_are_two_names_of_one_width(sigma):
    gamma = PowerEMA(sigma_rel=sigma).exponent
    back = math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
    assert back == pytest.approx(sigma, rel=1e-9)


@pytest.mark.parametrize(("sigma", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_are_those_of_edm2(sigma, gamma):
    assert PowerEMA(sigma_rel=sigma).exponent == pytest.approx(gamma, abs=0.005)


@given(gamma=gammas, every=st.integers(1, 30), updates=st.integers(1, 30))
def test_the_power_profile_telescopes(gamma, every, updates):
    """The share of update i is ((i·Δ)^(γ+1) − ((i−1)·Δ)^(γ+1)) / t^(γ+1), whatever Δ is."""
    average = PowerEMA(gamma=gamma)
    kept = 1.0
    shares = []
    for i in range(updates, 0, -1):
        w = average.weight(Update(i - 1, i * every, every), i - 1)
        shares.insert(0, w * kept)
        kept *= 1 - w
    exponent = gamma + 1
    expected = [
        (i / updates) ** exponent - ((i - 1) / updates) ** exponent for i in range(1, updates + 1)
    ]
    assert shares == pytest.approx(expected, abs=1e-12)
    assert kept == 0.0  # nothing of the initial weights


@pytest.mark.parametrize("every", [1, 10, 100])
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_the_power_profile_has_its_nominal_mean_and_spread_at_every_period(every, sigma):
    """C1: ema-pytorch's has 0.15 ± 0.24 in place of 0.947 ± 0.050 at a period of 100."""
    average = PowerEMA(sigma_rel=sigma)
    updates = 4000 // every
    shares = profile(average, every=every, updates=updates)[1:]
    # Weights at an update stand for the steps since the one before: the middle of those.
    place = [(i + 0.5) / updates for i in range(updates)]
    mean = sum(s * p for s, p in zip(shares, place, strict=True))
    spread = math.sqrt(sum(s * (p - mean) ** 2 for s, p in zip(shares, place, strict=True)))
    gamma = average.exponent
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), abs=0.005)
    assert spread == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sigma_rel": 0.1, "gamma": 7.0},
        {"sigma_rel": 0.0},
        {"sigma_rel": 0.2887},
        {"sigma_rel": math.nan},
        {"gamma": 0.0},
        {"gamma": -1.0},
        {"gamma": math.inf},
        {"gamma": math.nan},
    ],
)
def test_a_power_ema_without_one_proper_width_is_refused(settings):
    with pytest.raises(ConfigError, match="expected"):
        PowerEMA(**settings)


# Uniform


def test_the_uniform_weights_are_one_over_the_number_folded():
    weights = [Uniform().weight(Update(n, n + 1, 1), folded=n) for n in range(5)]
    assert weights == [1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5]


def test_a_tail_takes_updates_after_its_start_only():
    tail = Uniform(start=10)
    assert tail.weight(Update(9, 10, 1), folded=0) == 0.0
    assert tail.weight(Update(10, 11, 1), folded=0) == 1.0


@pytest.mark.parametrize("start", [-1, 1.5, math.nan, "10"])
def test_a_start_that_is_no_number_of_steps_is_refused(start):
    with pytest.raises(ConfigError, match="start is"):
        Uniform(start=start)


# All kinds


@given(kind=kinds, every=st.integers(1, 20), updates=st.integers(0, 40))
def test_shares_are_weights_of_a_mean(kind, every, updates):
    shares = profile(kind, every=every, updates=updates)
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)


@given(kind=kinds, every=st.integers(1, 20), index=st.integers(0, 200), folded=st.integers(0, 200))
def test_weights_are_those_of_the_formulas_written_a_second_time(kind, every, index, folded):
    step = (index + 1) * every
    got = kind.at_period(every).weight(Update(index, step, every), folded)
    assert got == pytest.approx(
        lerp_weight(kind, every=every, index=index, step=step, folded=folded), abs=1e-14
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (EMA(0.998), "ema_0.998"),
        (EMA(0.0), "ema_0"),
        (EMA(0.99999975), "ema_0.99999975"),
        (EMA(0.9, name="mine"), "mine"),
        (EMA.per_step(0.999875), "ema_0.999875_per_step"),
        (EMA.halflife(steps=500), "ema_halflife_500_steps"),
        (EMA.halflife(epochs=2, steps_per_epoch=10), "ema_halflife_2_epochs"),
        (PowerEMA(sigma_rel=0.1), "power_0.1"),
        (PowerEMA(gamma=6.94), "power_0.1"),
        (Uniform(), "uniform"),
        (Uniform(start=1000), "uniform_from_1000"),
    ],
)
def test_names_say_what_the_average_is(kind, name):
    assert kind.label == name
    assert kind.at_period(1).label == name


@given(kind=kinds)
def test_an_average_comes_back_from_its_record(kind):
    assert from_record(json.loads(json.dumps(to_record(kind)))) == kind


def test_a_record_of_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'emma'; expected one of ema, power, uniform"):
        from_record({"kind": "emma", "decay": 0.9})


def test_a_number_means_an_ema():
    assert as_average(0.9) == EMA(0.9)
    assert as_average(0) == EMA(0.0)
    assert as_average(Uniform()) == Uniform()


@pytest.mark.parametrize("value", ["0.9", None, [0.9], EMA])
def test_what_is_no_average_is_refused(value):
    with pytest.raises(ConfigError, match="expected a decay or one of EMA, PowerEMA, Uniform"):
        as_average(value)
