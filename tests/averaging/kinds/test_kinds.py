"""All kinds together: formulas, names, what is an average."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawn_kinds import kinds
from support.small_networks import lerp_weight

from polyak.averaging.kinds import (
    EMA,
    PowerEMA,
    Schedule,
    Uniform,
    Update,
    as_average,
)
from polyak.errors import ConfigError


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
        (EMA(0.99, start=1000), "ema_0.99_from_1000"),
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
