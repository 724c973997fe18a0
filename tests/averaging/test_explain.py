"""What a bank says of itself, held against what it does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import Scalar, profile

from polyak import EMA, Averager, PowerEMA, Uniform
from polyak.averaging.explain import coinciding

decays = st.lists(st.floats(0.0, 0.97), min_size=2, max_size=4, unique=True)


def line_of(averager: Averager, name: str) -> str:
    [line] = [line for line in averager.explain().splitlines() if line.startswith(f"{name}:")]
    return line


def test_the_papers_bank_says_where_warm_up_ends():
    """C2: with every = 16 its largest decay is out of warm-up after epoch 184 of 200 only."""
    averager = Averager(Scalar(), [0.968, 0.998], every=16)
    line = line_of(averager, "ema_0.998")
    assert "half-life 346.2 updates (5540 steps)" in line
    assert "warm-up governs until update 4491 (step 71856)" in line


def test_the_counter_of_warm_up_is_named():
    averager = Averager(Scalar(), [EMA(0.998, warmup_counts="steps")], every=16)
    assert "warm-up governs until step 4491" in averager.explain()


def test_kinds_are_told_apart():
    averager = Averager(
        Scalar(), [EMA(0.9, warmup=None), EMA(0.0), PowerEMA(gamma=8.0), Uniform(start=7)], every=2
    )
    text = averager.explain()
    assert text.startswith("4 averages, one update every 2 steps, 0 updates so far")
    assert "half-life 6.6 updates (13 steps), no warm-up" in line_of(averager, "ema_0.9")
    assert "the weights of the last update" in line_of(averager, "ema_0")
    assert "γ 8, mean age 10.0% of the run so far" in text
    assert "plain mean of all updates after step 7" in text


@given(
    kind=st.sampled_from(
        [EMA(0.9), EMA(0.99, warmup=None), PowerEMA(gamma=2.0), Uniform(), Uniform(start=9)]
    ),
    every=st.integers(1, 4),
    updates=st.integers(0, 12),
)
def test_the_share_of_the_initial_weights_is_exact(kind, every, updates):
    averager = Averager(Scalar(), [kind], every=every)
    for _ in range(every * updates):
        averager.step()
    share = profile(kind, every=every, updates=updates)[0]
    assert line_of(averager, kind.label).endswith(f"initial weights {share:.2%}")


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


@pytest.mark.parametrize(("updates", "equal"), [(272, True), (273, False)])
def test_the_first_update_outside_warm_up_ends_the_likeness(updates, equal):
    """0.968 < 273/282: update 273, t = 272, is the first that the ramp does not govern."""
    model = Scalar()
    averager = Averager(model, [0.968, 0.998])
    for step in range(updates):
        model.set(float(step))
        averager.step()
    a, b = (averager.tensors(name)["w"] for name in averager.names)
    assert torch.equal(a, b) == equal
    assert ("ema_0.968 = ema_0.998: equal so far" in averager.explain()) == equal


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
