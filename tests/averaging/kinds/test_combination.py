"""Combinations are what their shares say, and published averages are points among them."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.drawn_kinds import kinds, late

from polyak import EMA, Averager, Combination, Initial, Schedule, Window, profile
from polyak.averaging.kinds.combination import LAST, same_kind
from polyak.averaging.kinds.profiles.profile import contents
from polyak.errors import ConfigError

shares = st.floats(-3.0, 3.0).map(lambda x: round(x, 3))


@given(one=kinds, other=late, share=shares, updates=st.integers(0, 40), every=st.integers(1, 4))
def test_its_profile_age_and_noise_are_those_of_the_sum(one, other, share, updates, every):
    kind = Combination([(one, share), (other, 1 - share)])
    own = [profile(k, updates=updates, every=every) for k in (one, other)]
    wanted = [share * a + (1 - share) * b for a, b in zip(*own, strict=True)]
    assert profile(kind, updates=updates, every=every) == pytest.approx(wanted, abs=1e-12)
    found = contents(kind, updates=updates, every=every)
    age = sum(s * (updates - i) for i, s in enumerate(wanted))
    assert found.mean_age == pytest.approx(age, rel=1e-9, abs=1e-9)
    assert found.squares == pytest.approx(sum(s * s for s in wanted), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("updates", [3, 100, 30_000])
def test_of_long_runs_it_is_summed_up_without_its_shares(updates):
    kind = Combination({EMA(0.999, warmup=None): 3.0, EMA(0.9998): -2.0})
    written = profile(kind, updates=updates)
    found = contents(kind, updates=updates)
    assert found.squares == pytest.approx(sum(s * s for s in written), rel=1e-9)
    assert found.initial_share == pytest.approx(written[0], abs=1e-12)


@given(noise=st.floats(1.5, 5_000), place=st.floats(0.0, 0.95), ratio=st.floats(1.05, 20.0))
def test_a_lag_free_average_has_the_noise_and_the_lag_that_were_asked_for(noise, place, ratio):
    lag = place * (noise - 1) / 2
    kind = Combination.lag_free(noise, lag=lag, ratio=ratio)
    found = contents(kind, updates=10**9)
    assert found.effective == pytest.approx(noise, rel=1e-6)
    assert found.mean_age == pytest.approx(lag, abs=1e-6 * noise)
    assert all(0.0 <= part.decay < 1.0 for part, _ in kind.parts)


def test_a_lag_free_average_may_begin_later():
    kind = Combination.lag_free(20, start=30)
    assert kind.label == "lag_free_20_from_30"
    found = profile(kind, updates=90)
    assert set(found[:30]) == {0.0}
    assert found[30:] == pytest.approx(profile(Combination.lag_free(20), updates=60))


def test_near_ratio_one_it_is_the_double_ema():
    """Mulloy 1994: DEMA = 2·EMA − EMA(EMA)."""
    limit = Combination.lag_free(50, ratio=1.0001)
    d = limit.parts[0][0].decay
    x = torch.randn(2_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    once = twice = x[0]
    for value in x[1:]:
        once = d * once + (1 - d) * value
        twice = d * twice + (1 - d) * once
    shares = torch.tensor(profile(limit, updates=len(x) - 1), dtype=torch.float64)
    assert float((shares * x).sum()) == pytest.approx(float(2 * once - twice), abs=2e-4)


def test_bema_is_the_published_algorithm():
    """Block & Zhang 2025, algorithm 1, written out: ρ, γ, κ, η."""
    rho, gamma, kappa, eta = 10.0, 1.0, 0.5, 0.2
    x = torch.randn(41, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    m = x[0]
    for t in range(1, 41):
        beta, alpha = (rho + gamma * t) ** -kappa, (rho + gamma * t) ** -eta
        m = (1 - beta) * m + beta * x[t]
        bema = m + alpha * (x[t] - x[0])
    ema = Schedule(lambda update: (rho + gamma * update.step) ** -kappa, name="m")
    kind = Combination.bema(ema, (rho + gamma * 40) ** -eta)
    found = torch.tensor(profile(kind, updates=40), dtype=torch.float64)
    assert float((found * x).sum()) == pytest.approx(float(bema), rel=1e-12)


def test_a_blend_is_the_published_formula():
    """modded-nanogpt 325: (1 − γ)·x + γ·m."""
    own = profile(0.9, updates=20)
    wanted = [0.7 * s for s in own]
    wanted[-1] += 0.3
    kind = Combination.blended(0.9, 0.7)
    assert profile(kind, updates=20) == pytest.approx(wanted, abs=1e-15)


def test_merges_of_windows_that_touch_are_extrapolated_by_two_windows():
    """Extra-Merge, m_t + λ·(m_t − m_{t−n}), of windows of n with as many updates between them."""
    n, by = 5, 0.4
    now, before = profile(Window(n), updates=20), profile(Window(n), updates=15)
    wanted = [(1 + by) * a - by * b for a, b in zip(now, (*before, *[0.0] * n), strict=True)]
    kind = Combination({Window(n): 1 + 2 * by, Window(2 * n): -2 * by})
    assert profile(kind, updates=20) == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({0.9: 2}, r"shares are \[2\], which sum to 2; expected a sum of 1"),
        ({0.9: 2, 0.99: -1.001}, "which sum to 0.999"),
        ({0.9: float("nan"), 0.99: 1}, "expected finite numbers that sum to 1"),
        ({}, "expected decays or kinds that a bank keeps"),
        ({"ema_0.9": 1}, "a part of the combination is 'ema_0.9'"),
    ],
)
def test_shares_that_are_none_are_named(given_, said):
    with pytest.raises(ConfigError, match=said):
        Combination(given_)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"noise": 1.0}, "noise is 1.0; expected an effective number of weights > 1"),
        ({"noise": 9.0, "lag": 4.0}, "lag is 4.0; expected 0 <= lag < 4, that of one EMA"),
        ({"noise": 9.0, "lag": -1.0}, "lag is -1.0"),
        ({"noise": 9.0, "ratio": 1.0}, "ratio is 1.0; expected > 1"),
    ],
)
def test_a_noise_and_a_lag_that_cannot_be_are_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        Combination.lag_free(**settings)


def test_a_bank_refuses_a_combination_and_says_what_to_keep():
    with pytest.raises(ConfigError, match="which is read and not kept; expected its parts"):
        Averager(torch.nn.Linear(2, 1), Combination.lag_free(100))
    with pytest.raises(ConfigError, match="is read and not kept"):
        Combination.lag_free(100).weight(None, 0)


@given(kind=st.one_of(kinds, late), other=kinds)
def test_kinds_are_the_same_whatever_they_are_called(kind, other):
    assume(kind != other)
    assert same_kind(kind, kind)
    assert not same_kind(kind, Initial())


def test_what_has_code_is_the_same_only_as_itself():
    one, other = (Schedule(lambda _: 0.5, name="a") for _ in range(2))
    assert same_kind(one, one)
    assert not same_kind(one, other)
    assert Combination.bema(one, 0.1).parts_to_keep == [one, Initial()]
    assert LAST not in Combination.bema(one, 0.1).parts_to_keep
