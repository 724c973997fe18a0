"""Mixtures of stored averages: the best there is, exact where one exists, off by what they say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyak import EMA, PowerEMA, Uniform, Window
from polyak.averaging import profile
from polyak.averaging.nearest import nearest_mixture
from polyak.errors import ConfigError

kinds = st.sampled_from(
    [
        EMA(0.5),
        EMA(0.9),
        EMA(0.97, warmup=None),
        PowerEMA(gamma=3.0),
        Uniform(),
        Window(4),
        EMA(0.0),
    ]
)
profiles = st.builds(lambda kind, n: profile(kind, updates=n), kinds, st.integers(1, 30))


def walks(profiles, *, rates, walks=20_000, seed=0):
    """Averages with these profiles of many random walks, and the walks' own points."""
    steps_wu = torch.randn(
        walks, len(rates), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ) * torch.tensor(rates, dtype=torch.float64)
    points_wu = torch.cat([torch.zeros(walks, 1), steps_wu.cumsum(dim=1)], dim=1)
    return [
        points_wu[:, : len(s)] @ torch.tensor(s, dtype=torch.float64) for s in profiles
    ], points_wu


@given(target=profiles, stored=st.lists(profiles, min_size=1, max_size=5))
def test_shares_sum_to_one(target, stored):
    found = nearest_mixture(target, stored)
    assert sum(found.shares) == pytest.approx(1)
    assert found.error >= 0


@given(
    target=profiles,
    stored=st.lists(profiles, min_size=2, max_size=5),
    moved=st.lists(st.floats(-1, 1), min_size=5, max_size=5),
)
def test_no_other_mixture_is_nearer(target, stored, moved):
    found = nearest_mixture(target, stored)
    # A slow twin of the distance, from the walk's own sum of what moved it.
    updates = max(map(len, [target, *stored])) - 1

    def distance(shares):
        return sum(
            (sum(target[j:]) - sum(c * sum(s[j:]) for c, s in zip(shares, stored, strict=True)))
            ** 2
            for j in range(1, updates + 1)
        )

    moved = moved[: len(stored)]
    mean = sum(moved) / len(moved)
    other = [c + m - mean for c, m in zip(found.shares, moved, strict=True)]
    assert distance(found.shares) <= distance(other) + 1e-9


@given(stored=st.lists(profiles, min_size=1, max_size=5), data=st.data())
def test_a_stored_average_is_found_without_error(stored, data):
    target = data.draw(st.sampled_from(stored))
    assert nearest_mixture(target, stored).error == pytest.approx(0, abs=1e-6)


def test_a_window_between_two_means_is_exact():
    # icefall keeps running means only, and takes any window from two of them.
    stored = [profile(Uniform(), updates=n) for n in (10, 30)]
    window = (0.0,) * 11 + (1 / 20,) * 20
    found = nearest_mixture(window, stored)
    assert found.shares == pytest.approx((-10 / 20, 30 / 20))
    assert found.error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "rates", [[1.0] * 60, [1.0 - n / 80 for n in range(60)]], ids=["even", "falling"]
)
def test_the_error_is_that_of_random_walks(rates):
    stored = [profile(EMA(d), updates=n) for d in (0.7, 0.95) for n in (20, 40, 60)]
    target = profile(EMA(0.85, warmup=None), updates=50)
    found = nearest_mixture(target, stored, rates=rates)
    (wanted, *others), points_wu = walks([target, *stored], rates=rates)
    mixed = sum(c * x for c, x in zip(found.shares, others, strict=True))
    measured = (mixed - wanted).norm() / (wanted - points_wu[:, 50]).norm()
    assert 0.01 < found.error < 0.5
    assert float(measured) == pytest.approx(found.error, rel=0.03)


def test_rates_make_a_mixture_that_suits_them_better():
    rates = [2.0 ** (-n / 5) for n in range(60)]
    stored = [profile(EMA(d), updates=n) for d in (0.7, 0.95) for n in (20, 40, 60)]
    target = profile(EMA(0.85, warmup=None), updates=50)
    (wanted, *others), _ = walks([target, *stored], rates=rates)

    def missed(found):
        mixed = sum(c * x for c, x in zip(found.shares, others, strict=True))
        return float((mixed - wanted).norm())

    told, untold = (nearest_mixture(target, stored, rates=r) for r in (rates, None))
    assert missed(told) < 0.8 * missed(untold)


def test_rounding_keeps_shares_small():
    stored = [profile(EMA(0.9 + n / 100, warmup=None), updates=50) for n in range(4)]
    target = profile(EMA(0.99, warmup=None), updates=50)
    wild, tame = (nearest_mixture(target, stored, rounding=r) for r in (0.0, 0.1))
    assert sum(map(abs, wild.shares)) > 20 * sum(map(abs, tame.shares))
    assert tame.error > wild.error


def test_more_stored_averages_are_never_worse():
    target = profile(PowerEMA(sigma_rel=0.15), updates=100)
    stored = [profile(EMA(d), updates=n) for n in (50, 100) for d in (0.9, 0.98)]
    errors = [nearest_mixture(target, stored[:n]).error for n in range(1, 5)]
    assert errors == sorted(errors, reverse=True)


def test_nothing_stored_and_wrong_rates_are_refused():
    with pytest.raises(ConfigError, match="stored is empty; expected at least one"):
        nearest_mixture((1.0,), [])
    with pytest.raises(ConfigError, match="expected a finite number > 0 for each of 2 updates"):
        nearest_mixture((0.0, 0.5, 0.5), [(0.0, 1.0)], rates=[1.0])
    with pytest.raises(ConfigError, match="rates are 2, the least 0"):
        nearest_mixture((0.0, 0.5, 0.5), [(0.0, 1.0)], rates=[1.0, 0.0])
