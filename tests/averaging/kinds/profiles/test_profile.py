"""The exact weights in an average, held against one-hot weights folded through the averager."""

import math
from itertools import accumulate

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.small_networks import OneHot
from support.small_networks import profile as slow_twin

from polyak import EMA, Average, Averager, PowerEMA, Schedule, Uniform, Window
from polyak.averaging import Exponential, InverseGamma, Ratio, profile
from polyak.averaging.kinds.profiles.profile import contents, regular_weights
from polyak.averaging.kinds.warmups import WARMUPS
from polyak.errors import ConfigError


def halving(update):
    return 0.5 if update.step % 2 else 0.25


KINDS = [
    *(EMA(0.8, name, counter) for name in WARMUPS for counter in ("updates", "steps")),
    EMA(0.9, warmup=None),
    EMA(0.0),
    EMA(0.8, start=9),
    EMA(0.8, None, start=1),
    EMA(0.8, "edm2", "steps", start=10),
    EMA.per_step(0.95, warmup="diffusers", start=16),
    EMA.per_step(0.95, warmup=None),
    EMA.halflife(steps=7),
    EMA(0.9, InverseGamma(gamma=2.0, power=0.9, min_decay=0.3, after=3)),
    EMA(0.7, Ratio(first=3, copies=2), "steps"),
    EMA(0.9, Exponential(tau=5.0)),
    PowerEMA(sigma_rel=0.1),
    PowerEMA(gamma=2.0),
    Uniform(),
    Uniform(start=9),
    Schedule(halving, name="halving"),
]
kinds = st.sampled_from(KINDS)
periods = st.integers(1, 9)


def folded(kind, *, every, updates):
    """The weights as the real recurrence leaves them, and the averager."""
    model = OneHot(updates)
    averager = Averager(model, [kind], every=every)
    for i in range(1, updates + 1):
        model.mark(i)
        for _ in range(every):
            averager.step()
    return averager.tensors(kind.label)["w"].tolist(), averager


@given(kind=kinds, every=periods, updates=st.integers(0, 25))
def test_a_profile_is_what_the_averager_folds_in(kind, every, updates):
    expected, averager = folded(kind, every=every, updates=updates)
    got = profile(kind, updates=updates, every=every)
    assert got == pytest.approx(expected, abs=1e-13)
    assert averager.profile(kind.label) == got
    assert all(0.0 <= share <= 1.0 for share in got)


@given(kind=kinds, every=periods, updates=st.integers(0, 400))
def test_a_profile_sums_to_one(kind, every, updates):
    assert math.fsum(profile(kind, updates=updates, every=every)) == pytest.approx(1.0, abs=1e-12)


@given(kind=kinds, every=periods, updates=st.integers(0, 400))
def test_two_numbers_say_what_the_profile_says(kind, every, updates):
    shares = profile(kind, updates=updates, every=every)
    age = math.fsum(share * (updates - i) for i, share in enumerate(shares))
    got = contents(kind, updates=updates, every=every)
    assert got.initial_share == pytest.approx(shares[0], rel=1e-9, abs=1e-15)
    assert got.mean_age == pytest.approx(age, rel=1e-9, abs=1e-9)


@given(every=periods, updates=st.integers(0, 40))
@pytest.mark.parametrize(
    "kind", [EMA(0.9), EMA(0.9, None), EMA(0.9, start=9), PowerEMA(gamma=3.0), Uniform(start=9)]
)
def test_the_profile_is_that_of_the_formulas_written_a_second_time(kind, every, updates):
    expected = slow_twin(kind, every=every, updates=updates)
    assert profile(kind, updates=updates, every=every) == pytest.approx(expected, abs=1e-14)


def test_a_number_means_an_ema():
    assert profile(0.9, updates=30) == profile(EMA(0.9), updates=30)


@pytest.mark.parametrize(
    "counts", [{"updates": -1}, {"updates": 2.0}, {"updates": True}, {"updates": 1, "every": 0}]
)
def test_counts_outside_their_range_are_refused(counts):
    with pytest.raises(ConfigError, match=r"(updates|every) is .*; expected an integer >= [01]"):
        profile(0.9, **counts)
    with pytest.raises(ConfigError, match="expected an integer"):
        contents(Uniform(), **counts)


@pytest.mark.parametrize("updates", [5, 6, 10, 30, 60])
def test_a_warm_up_without_an_end_is_followed_to_the_last_update(updates):
    """From update 7 on its weights are within 1 % of the last ones, which is not exact."""
    average = EMA(0.9, Exponential(tau=1.0))
    shares = profile(average, updates=updates)
    got = contents(average, updates=updates)
    assert got.initial_share == pytest.approx(shares[0], rel=1e-12)
    age = math.fsum(share * (updates - i) for i, share in enumerate(shares))
    assert got.mean_age == pytest.approx(age, rel=1e-12)


# Laws


def test_the_papers_warm_up_is_a_power_function_of_gamma_8():
    """(t+1)/(t+10) = 1 − 9/(t+10): shares grow as (t+2)…(t+9), and 1/C(u+9, 9) is the start's."""
    updates = 60
    total = math.comb(updates + 9, 9)
    expected = [1 / total, *(math.comb(t + 9, 8) / total for t in range(updates))]
    assert profile(EMA(0.999), updates=updates) == pytest.approx(expected, rel=1e-10)
    # As old as such a function's: a tenth of the run, at any length and period.
    for every in (1, 16):
        assert contents(EMA(0.998), updates=4490, every=every).mean_age == pytest.approx(449, abs=1)


@given(updates=st.integers(1, 300), every=periods, gamma=st.floats(0.1, 40.0))
def test_the_power_profile_telescopes_at_every_period(updates, every, gamma):
    shares = profile(PowerEMA(gamma=gamma), updates=updates, every=every)
    tails = [(i / updates) ** (gamma + 1) for i in range(updates + 1)]
    assert list(accumulate(shares)) == pytest.approx(tails, abs=1e-11)


def moments(shares):
    """Mean and spread over the run; an update stands for the middle of its period."""
    updates = len(shares) - 1
    place = [0.0, *((i + 0.5) / updates for i in range(updates))]
    mean = math.fsum(s * p for s, p in zip(shares, place, strict=True))
    return mean, math.sqrt(
        math.fsum(s * (p - mean) ** 2 for s, p in zip(shares, place, strict=True))
    )


@pytest.mark.parametrize("every", [1, 10, 100])
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_the_power_profile_has_its_nominal_mean_and_spread_at_every_period(every, sigma):
    """C1: ema-pytorch's has 0.15 ± 0.24 in place of 0.947 ± 0.050 at a period of 100."""
    average = PowerEMA(sigma_rel=sigma)
    updates = 4000 // every
    mean, spread = moments(profile(average, updates=updates, every=every))
    gamma = average.exponent
    # Exactly, from the discrete weights (i^(γ+1) − (i−1)^(γ+1)) / u^(γ+1).
    discrete = [0.0] + [
        (i / updates) ** (gamma + 1) - ((i - 1) / updates) ** (gamma + 1)
        for i in range(1, updates + 1)
    ]
    assert (mean, spread) == pytest.approx(moments(discrete), rel=1e-9)
    # In the limit, from the continuous law (γ+1)·s^γ; within a period it is all but flat.
    spread = math.hypot(spread, 12**-0.5 / updates)
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), rel=2 / updates**2)
    assert spread == pytest.approx(sigma, rel=2e-3)


@given(
    decay=st.floats(0.2, 0.9999), updates=st.integers(1, 40), every=st.sampled_from([1, 2, 4, 8])
)
def test_a_decay_per_step_forgets_alike_at_every_period(decay, updates, every):
    """C15: horizons in steps do not depend on the period."""
    steps = 8 * updates
    average = EMA.per_step(decay, warmup=None)
    left = contents(average, updates=steps // every, every=every).initial_share
    assert left == pytest.approx(decay**steps, rel=1e-9)


@given(half=st.integers(1, 50), every=st.sampled_from([1, 2, 4, 8]))
def test_half_of_an_iterate_is_left_after_a_half_life_at_every_period(half, every):
    average = EMA.halflife(steps=8 * half, warmup=None)
    left = contents(average, updates=8 * half // every, every=every).initial_share
    assert left == pytest.approx(0.5, rel=1e-9)


@given(decay=st.floats(0.1, 0.9999), kappa=st.integers(1, 8), updates=st.integers(0, 30))
def test_a_larger_batch_forgets_alike_per_sample(decay, kappa, updates):
    """Busbridge et al.: κ updates of the old run are one of the new one."""
    average = EMA(decay, warmup=None)
    scaled = contents(average.scaled_batch(kappa), updates=updates).initial_share
    assert scaled == pytest.approx(
        contents(average, updates=kappa * updates).initial_share, rel=1e-9
    )


@given(kind=kinds, every=periods)
def test_before_any_update_an_average_is_the_start(kind, every):
    assert profile(kind, updates=0, every=every) == (1.0,)


@given(updates=st.integers(1, 10**12), decay=st.floats(0.0, 0.9999))
def test_long_runs_cost_nothing_once_the_decay_is_constant(updates, decay):
    got = contents(EMA(decay, warmup=None), updates=updates)
    assume(decay**updates < 1e-12)
    assert got.mean_age == pytest.approx(decay / (1 - decay), rel=1e-6)


SUMMED = (
    EMA(0.9),
    EMA(0.0),
    EMA(0.9999),
    EMA(0.9999, warmup=None),
    EMA(0.999, warmup="yolo"),
    EMA(0.9999, warmup="edm2"),
    EMA(0.9999, warmup="inverse_gamma"),
    EMA(0.999, warmup="diffusers"),
    EMA(0.999, warmup=InverseGamma(power=1.0)),
    EMA(0.9999, start=1000),
    EMA(0.99, warmup="yolo", start=777, warmup_counts="steps"),
    EMA(0.9999, warmup_counts="steps"),
    EMA(0.99999999, warmup="inverse_gamma"),
    PowerEMA(0.1),
    PowerEMA(gamma=500.0),
    PowerEMA(gamma=0.01),
    Uniform(),
    Uniform(start=999),
)


@pytest.mark.parametrize("every", [1, 16])
@pytest.mark.parametrize("average", SUMMED, ids=repr)
def test_a_long_run_in_short_is_what_going_through_it_gives(average, every):
    """A loop over all updates for sums, blocks and formulas."""
    share, age, at = 1.0, 0.0, 0
    ends = iter((0, 1, 2, 99, 999, 20_000))
    end = next(ends)
    for w in (*regular_weights(average, updates=20_000, every=every), 0.0):
        if at == end:
            found = contents(average, updates=end, every=every)
            assert found.mean_age == pytest.approx(age, rel=1e-6, abs=1e-9)
            assert found.initial_share == pytest.approx(share, rel=1e-6, abs=1e-12)
            end = next(ends, None)
        share, age, at = share * (1.0 - w), (age + 1.0) * (1.0 - w), at + 1
    assert end is None


@given(
    last=st.integers(1, 9),
    spacing=st.one_of(st.none(), st.integers(1, 50)),
    every=st.integers(1, 4),
    updates=st.integers(0, 300),
    share=st.floats(0, 1),
)
def test_a_windows_snapshots_are_counted_as_they_are_taken(last, spacing, every, updates, share):
    window = Window(last, every=None if spacing is None else spacing * every)
    # Nothing, or a part of the run took place before it joined.
    for begun in (0, int(share * updates)):
        run = {"updates": updates, "every": every, "begun": begun}
        assert window.ages(**run) == Average.ages(window, **run)


@pytest.mark.parametrize("average", [*SUMMED, Window(5), Window(3, every=10**8)], ids=repr)
def test_a_billion_updates_are_summed_up_in_few_steps(average, monkeypatch):
    asked, weight = [], type(average).weight

    def counted(kind, update, folded):
        asked.append(update.index)
        return weight(kind, update, folded)

    monkeypatch.setattr(type(average), "weight", counted)
    assert 0.0 <= contents(average, updates=10**9).mean_age <= 10**9
    assert len(asked) < 60_000
