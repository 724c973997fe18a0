"""The average whose profile is a power of time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyak.averaging.kinds import (
    PowerEMA,
)
from polyak.errors import ConfigError


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
