"""The average that stands for a decay of the learning rate is the decay, where gradients stay."""

import time
from math import cos, pi, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import Scalar

from polyak import Annealed, Averager, Uniform, profile
from polyak.averaging.kinds.profiles.profile import MeanAge, contents
from polyak.errors import ConfigError

SHAPES = {
    "linear": lambda x: 1 - x,
    "1-sqrt": lambda x: 1 - sqrt(x),
    "cosine": lambda x: (1 + cos(pi * x)) / 2,
}
shapes = st.sampled_from(sorted(SHAPES))


@given(shape=shapes, over=st.integers(1, 30), before=st.integers(0, 20), ended=st.booleans())
def test_it_is_where_the_decay_would_have_led_with_the_same_gradients(shape, over, before, ended):
    generator = torch.Generator().manual_seed(over)
    moves = torch.randn(before + over, dtype=torch.float64, generator=generator)
    constant = torch.cat([torch.zeros(1, dtype=torch.float64), moves.cumsum(0)])
    rates = [1.0] * before + [SHAPES[shape](k / over) for k in range(over)]
    decayed = sum(rate * float(move) for rate, move in zip(rates, moves, strict=True))
    kind = Annealed(shape, over=over, end=before + over if ended else None)
    shares = torch.tensor(profile(kind, updates=before + over), dtype=torch.float64)
    assert float((shares * constant).sum()) == pytest.approx(decayed, abs=1e-12)


@given(
    shape=shapes,
    over=st.integers(1, 60),
    end=st.none() | st.integers(60, 90),
    updates=st.integers(0, 40),
    every=st.integers(1, 5),
)
def test_its_shares_are_none_negative_and_sum_to_one(shape, over, end, updates, every):
    kind = Annealed(shape, over=over, end=end)
    shares = profile(kind, updates=updates, every=every)
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)
    assert min(shares) >= 0.0
    found = contents(kind, updates=updates, every=every)
    age = sum(s * (updates - i) for i, s in enumerate(shares))
    assert found.mean_age == pytest.approx(age, abs=1e-9)
    assert found.squares == pytest.approx(sum(s * s for s in shares), abs=1e-12)
    assert MeanAge(kind.at_period(every), every=every).after(updates) == pytest.approx(age)


def test_a_linear_decay_is_the_plain_mean():
    assert profile(Annealed("linear", over=60, end=100), updates=50, every=2) == pytest.approx(
        profile(Uniform(start=40), updates=50, every=2), abs=1e-15
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("over", "end"), [(24_000, None), (39_999, 50_003), (3_000, 48_000)])
def test_long_runs_are_summed_up_in_blocks(shape, over, end):
    kind = Annealed(shape, over=over, end=end)
    shares = profile(kind, updates=26_000, every=2)
    found = contents(kind, updates=26_000, every=2)
    age = sum(s * (26_000 - i) for i, s in enumerate(shares))
    assert found.mean_age == pytest.approx(age, rel=1e-6)
    assert found.squares == pytest.approx(sum(s * s for s in shares), rel=1e-4)
    begun = time.perf_counter()
    contents(Annealed(shape, over=10**8, end=10**9), updates=10**9)
    assert time.perf_counter() - begun < 1.0


def walked(model, averager, steps, seen):
    generator = torch.Generator().manual_seed(averager.steps)
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn(p.shape, generator=generator)
        averager.step()
        if averager.steps % averager.every == 0:
            seen.append([p.detach().clone().double() for p in model.parameters()])


KINDS = [
    Annealed("1-sqrt", over=12),
    Annealed("cosine", over=12, every=4),
    Annealed("1-sqrt", over=11, end=30),
    Annealed("linear", over=7, end=22),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.label)
def test_kept_in_a_run_it_is_the_sum_of_its_shares_and_goes_on_after_a_stop(kind):
    model = torch.nn.Linear(3, 2)
    averager = Averager(model, kind, every=2)
    seen = [[p.detach().clone().double() for p in model.parameters()]]
    walked(model, averager, 17, seen)
    again = Averager(model, kind, every=2)
    again.load_state_dict(averager.state_dict())
    for bank, seen_by in ((averager, seen), (again, list(seen))):
        start = [p.detach().clone() for p in model.parameters()]
        walked(model, bank, 16, seen_by)
        shares = bank.profile()
        assert len(shares) == len(seen_by)
        for i, (key, got) in enumerate(bank.tensors().items()):
            wanted = sum(c * x[i] for c, x in zip(shares, seen_by, strict=True))
            assert torch.allclose(got.double(), wanted, atol=1e-5), key
        with torch.no_grad():
            for p, x in zip(model.parameters(), start, strict=True):
                p.copy_(x)
    pairs = zip(averager.tensors().values(), again.tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_it_is_explained():
    averager = Averager(Scalar(), [Annealed("1-sqrt", over=20, end=40), Annealed("linear", over=4)])
    for _ in range(30):
        averager.step()
    text = averager.explain(total_steps=60)
    assert "stands for a 1-sqrt decay of the learning rate over 20 steps that ends at step" in text
    assert (
        "linear decay of the learning rate over 4 steps, from 4 copies, one every 1 steps" in text
    )
    assert "mean age 1.5 updates (2 steps), 4.0 effective weights" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shape": "sqrt", "over": 5}, "shape is 'sqrt'; expected one of linear, 1-sqrt, cosine"),
        ({"shape": "linear", "over": 0}, "over is 0; expected optimizer steps"),
        ({"shape": "linear", "over": 2.5}, "over is 2.5"),
        ({"shape": "linear", "over": 50, "end": 49}, "end is 49; expected a step >= over"),
        ({"shape": "linear", "over": 5, "end": 49, "every": 2}, "every is 2; expected None"),
    ],
)
def test_settings_outside_their_range_are_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        Annealed(**settings)


def test_more_copies_than_anybody_has_memory_for_are_refused():
    with pytest.raises(ConfigError, match=r"would keep 1000 copies of the weights; expected at m"):
        Averager(Scalar(), Annealed("linear", over=1000))
    Averager(Scalar(), Annealed("linear", over=1000, every=100))
    with pytest.raises(ConfigError, match="expected a multiple of the averager's period"):
        Averager(Scalar(), Annealed("linear", over=1000, every=100), every=3)


def test_a_decay_that_is_long_beside_the_run_is_doubted():
    said = Annealed("1-sqrt", over=201).doubt(1000)
    assert said.startswith("'annealed_1-sqrt_201' stands for a decay over 201 of 1000 steps")
    assert Annealed("1-sqrt", over=200).doubt(1000) is None
    # Of one with an end it is the end that counts, however far it is.
    assert Annealed("linear", over=200, end=1000).doubt(900) is None
    averager = Averager(Scalar(), Annealed("linear", over=4, end=10))
    averager.step()
    assert (
        "warning: 'annealed_linear_4_at_10' stands for a decay over 4 of 10" in averager.explain()
    )
