"""Which averages are said to be equal, held against the averages themselves."""

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import Scalar

from polyak import EMA, Averager, PowerEMA, Schedule, Uniform
from polyak.averaging import Exponential, HalfLifeRamp, InverseGamma
from polyak.averaging.kinds.profiles.explain import coinciding
from polyak.averaging.kinds.warmups import WARMUPS

HALF = Schedule(lambda _: 0.5, name="half")
decays = st.lists(st.floats(0.0, 0.97), min_size=2, max_size=4, unique=True)


@given(decays=decays, updates=st.integers(0, 60), counts=st.sampled_from(["updates", "steps"]))
def test_averages_said_to_coincide_are_equal_and_others_are_not(decays, updates, counts):
    model = Scalar()
    kinds = [EMA(d, warmup_counts=counts, name=f"m{i}") for i, d in enumerate(decays)]
    averager = Averager(model, kinds, every=2)
    for step in range(2 * updates):
        model.set(float(2**step % 1009))
        averager.step()
    groups = coinciding({kind.label: kind for kind in kinds}, steps=2 * updates, updates=updates)
    together = {name for group in groups for name in group}
    values = {name: averager.tensors(name)["w"] for name in averager.names}
    for group in groups:
        assert all(torch.equal(values[group[0]], values[name]) for name in group)
    inside = [
        k.label
        for k in kinds
        if k.warms_up_at((updates if counts == "updates" else 2 * updates) - 1)
    ]
    assert together == (set(inside) if len(inside) > 1 else set())


def test_averages_without_warm_up_never_coincide():
    kinds = {"a": EMA(0.9, warmup=None), "b": EMA(0.99, warmup=None), "c": Uniform()}
    assert coinciding(kinds, steps=1, updates=1) == []


def test_counters_of_two_units_are_two_groups():
    kinds = {
        "a": EMA(0.999),
        "b": EMA(0.9999),
        "c": EMA(0.999, warmup_counts="steps"),
        "d": EMA(0.9999, warmup_counts="steps"),
    }
    assert coinciding(kinds, steps=32, updates=2) == [["a", "b"], ["c", "d"]]


def equal_sets(averager: Averager) -> set[frozenset[str]]:
    return {frozenset(group) for group in averager.coinciding()}


POOL = st.one_of(
    st.builds(EMA, st.sampled_from([0.3, 0.9, 0.99, 0.999]), st.sampled_from(sorted(WARMUPS))),
    st.builds(
        EMA,
        st.sampled_from([0.3, 0.9, 0.99, 0.999]),
        st.sampled_from(
            [
                None,
                "paper",
                "edm2",
                HalfLifeRamp(0.5),
                InverseGamma(0.1, 2.0, after=4),
                Exponential(2.0),
            ]
        ),
        st.sampled_from(["updates", "steps"]),
    ),
    st.builds(Uniform, st.sampled_from([0, 8, 40, 60])),
    st.builds(PowerEMA, gamma=st.sampled_from([2.0, 3.0])),
)


@given(
    pool=st.lists(POOL, min_size=2, max_size=8),
    every=st.integers(1, 4),
    moves=st.lists(st.sampled_from(["step", "step", "step", "update"]), max_size=40),
)
def test_whatever_is_said_to_coincide_is_equal_to_the_bit(pool, every, moves):
    """Also with updates of every spacing: evaluation relies on it."""
    model = Scalar()
    kinds = [replace(kind, name=f"m{i}") for i, kind in enumerate(pool)]
    averager = Averager(model, kinds, every=every)
    for i, move in enumerate(moves):
        model.set(float(2**i % 1009))
        getattr(averager, move)()
    values = {name: averager.tensors(name)["w"] for name in averager.names}
    for group in averager.coinciding():
        assert all(torch.equal(values[group[0]], values[name]) for name in group)


def test_averages_coincide_for_other_reasons_than_warm_up():
    kinds = [
        EMA(0.9, None, name="a"),
        EMA(0.9, None, name="b"),
        Uniform(start=50),
        Uniform(start=60),
        Schedule(HALF.function, name="c"),
        HALF,
    ]
    averager = Averager(Scalar(), kinds)
    averager.step()
    assert equal_sets(averager) == {
        frozenset({"a", "b"}),
        frozenset({"uniform_from_50", "uniform_from_60"}),
        frozenset({"c", "half"}),
    }
    text = averager.explain()
    assert "warning: a = b: equal so far, one average under several names" in text
    assert "warning: uniform_from_50 = uniform_from_60: equal so far, none has begun" in text
    assert "warning: c = half: equal so far, one function" in text


def test_a_share_of_the_run_is_no_warm_up_of_updates_that_were_close_together():
    """At step 2, one step after an update, the ramp is at 1/2 and above the smaller decay."""
    model = Scalar()
    ramp = HalfLifeRamp(0.5)
    kinds = [EMA(d, ramp, "steps", name=str(d)) for d in (0.3, 0.9)]
    averager = Averager(model, kinds, every=4)
    for step in range(1, 5):
        model.set(float(step))
        averager.step()
        if step < 3:
            averager.update()
    low, high = (averager.tensors(name)["w"] for name in averager.names)
    assert not torch.equal(low, high)
    assert averager.coinciding() == []
