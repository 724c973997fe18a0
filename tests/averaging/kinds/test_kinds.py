"""The schedules of lerp weights: formulas, units, names, records."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import lerp_weight

from polyak.averaging.kinds import (
    EMA,
    PowerEMA,
    Schedule,
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


# PowerEMA


@given(sigma=st.floats(0.005, 0.28))
def test_sigma_rel_and_gamma_are_two_names_of_one_width(sigma):
    gamma = PowerEMA(sigma_rel=sigma).exponent
    back = math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
    assert back == pytest.approx(sigma, rel=1e-9)


@pytest.mark.parametrize(("sigma", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_are_those_of_edm2(sigma, gamma):
    assert PowerEMA(sigma_rel=sigma).exponent == pytest.approx(gamma, abs=0.005)


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
        (EMA(0.998, "yolo", "steps"), "ema_0.998"),
        (Schedule(float, name="mine"), "mine"),
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
    with pytest.raises(ConfigError, match=r"'emma'; expected one of ema, power, uniform, schedule"):
        from_record({"kind": "emma", "decay": 0.9})


def test_a_number_means_an_ema():
    assert as_average(0.9) == EMA(0.9)
    assert as_average(0) == EMA(0.0)
    assert as_average(Uniform()) == Uniform()


@pytest.mark.parametrize("value", ["0.9", None, [0.9], EMA])
def test_what_is_no_average_is_refused(value):
    with pytest.raises(
        ConfigError, match="expected a decay or one of EMA, PowerEMA, Uniform, Schedule"
    ):
        as_average(value)
