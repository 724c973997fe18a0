"""What a reading says: steps that nobody counts, averages that are still equal."""

import warnings

import pytest
import torch
from support.small_networks import assert_same_bits, batch, drift, net, train_step, use
from torch import nn

from polyak import EMA, Averager, PowerEMA, Uniform
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.kinds.profiles.explain import coinciding, equal_until

READINGS = ["applied", "module", "tensors"]


def warned(averager: Averager, call: str, name: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use(averager, call, name)
    return [str(x.message) for x in caught]


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("call", READINGS)
@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("live", [torch.float32, torch.bfloat16, torch.float16])
def test_a_reading_without_a_counted_step_names_the_forgotten_attach_once(call, dtype, live):
    model = net().to(live)
    averager = Averager(model, [0.9], dtype=dtype)
    assert warned(averager, call, "ema_0.9") == []
    drift(model, 1)
    [message] = warned(averager, call, "ema_0.9")
    assert "no step has been counted" in message
    assert "attach(optimizer)" in message
    for again in READINGS:
        assert warned(averager, again, "ema_0.9") == []


@pytest.mark.parametrize("call", READINGS)
def test_it_is_said_at_the_line_that_reads(call):
    model = net()
    averager = Averager(model, [0.9])
    drift(model, 1)
    with pytest.warns(RuntimeWarning, match="no step") as caught:
        use(averager, call, "ema_0.9")
    assert caught[0].filename == use.__code__.co_filename


@pytest.mark.parametrize("value", range(8))
def test_one_value_of_a_small_weight_is_enough(value):
    model = nn.Linear(4, 2)
    averager = Averager(model, [0.9])
    with torch.no_grad():
        model.weight.view(-1)[value] += 1
    assert len(warned(averager, "tensors", "ema_0.9")) == 1


def test_a_large_weight_is_looked_at_here_and_there():
    model = nn.Linear(1000, 300)
    averager = Averager(model, [0.9])
    optimizer = sgd(model)
    model(torch.randn(4, 1000)).square().mean().backward()
    optimizer.step()
    assert len(warned(averager, "tensors", "ema_0.9")) == 1


@pytest.mark.parametrize(
    "counted", ["step", "update", "attach", "adopt", "load_state_dict", "forward pass", "cast"]
)
def test_nothing_is_said_where_nothing_was_forgotten(counted):
    """Statistics that a forward pass moves are no training, nor is what a cast rounds."""
    model = net()
    averager = Averager(model, [EMA(0.9, warmup=None)], every=3)
    if counted in ("step", "update"):
        drift(model, 1)
        getattr(averager, counted)()
    elif counted == "attach":
        optimizer = sgd(model)
        averager.attach(optimizer)
        train_step(model, optimizer, 0)
    elif counted == "adopt":
        averager.adopt({"ema_0.9": model.state_dict()}, steps=0)
        drift(model, 1)
    elif counted == "load_state_dict":
        averager.load_state_dict(averager.state_dict())
        drift(model, 1)
    elif counted == "cast":
        model.bfloat16()
    else:
        model(batch(0))
    for call in READINGS:
        assert warned(averager, call, "ema_0.9") == []


def test_saying_it_changes_nothing():
    model = net()
    averager = Averager(model, [0.9])
    before = averager.tensors("ema_0.9")
    drift(model, 1)
    assert len(warned(averager, "applied", "ema_0.9")) == 1
    assert_same_bits(averager.tensors("ema_0.9"), before)
    averager.step()
    assert averager.steps == 1


def walked(kinds, *, steps: int, every: int = 1) -> Averager:
    model = net()
    averager = Averager(model, kinds, every=every)
    for seed in range(steps):
        drift(model, seed)
        averager.step()
    return averager


@pytest.mark.parametrize("call", READINGS)
def test_averages_that_coincide_are_named_once_at_the_first_reading_with_the_step_they_part(call):
    averager = walked([0.5, 0.9, 0.99], steps=4, every=2)
    [message] = warned(averager, call, "ema_0.9")
    # min(d, (t + 1)/(t + 10)) is d = 0.5 from t = 8 on, and above it from t = 9 on.
    assert message.startswith("ema_0.5 = ema_0.9 = ema_0.99: equal so far, ")
    assert "all of them until step 18" in message
    for again in READINGS:
        assert warned(averager, again, "ema_0.99") == []


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    "kinds",
    [
        [EMA(0.5), EMA(0.9)],
        [EMA(0.7, warmup_counts="steps"), EMA(0.9, warmup_counts="steps")],
        [EMA(0.5), EMA(0.9), EMA(0.99)],
        [Uniform(start=20), Uniform(start=31)],
    ],
)
def test_the_step_is_the_last_one_at_which_they_are_equal(kinds, every):
    """Held against the averages themselves."""
    model = net()
    averager = Averager(model, kinds, every=every)
    said = averager.every
    for step in range(1, 150):
        drift(model, step % 7)
        averager.step()
        if step == said:
            [message] = warned(averager, "tensors", averager.names[0])
            until = int(message.split("until step ")[1].split(".")[0])
        if step >= said:
            rows = [averager.tensors(name)["0.weight"] for name in averager.names]
            same = all(torch.equal(rows[0], row) for row in rows)
            assert same == (step < until + every), step


def test_one_average_under_two_names_has_no_end():
    kinds = [EMA(0.9, warmup=None, name="a"), EMA(0.9, warmup=None, name="b")]
    [message] = warned(walked(kinds, steps=3), "tensors", "b")
    assert message.startswith("a = b: equal so far, one average under several names. ")
    assert equal_until(kinds, Counters(every=1)) is None


def test_averages_that_differ_or_have_parted_are_read_in_silence():
    parted = walked([0.5, 0.9], steps=10)
    others = walked([EMA(0.5, warmup=None), EMA(0.9, warmup=None), PowerEMA(gamma=2.0)], steps=1)
    for averager in (parted, others):
        for name in averager.names:
            assert warned(averager, "tensors", name) == []


def test_before_the_first_update_all_are_the_initial_weights_and_nothing_is_said():
    averager = walked([0.5, 0.9], steps=3, every=4)
    assert warned(averager, "tensors", "ema_0.5") == []
    assert coinciding(averager._kinds, steps=0, updates=0)


def test_an_average_that_equals_no_other_says_nothing_of_those_that_do():
    averager = walked([EMA(0.5), EMA(0.9), PowerEMA(gamma=2.0, name="p")], steps=2)
    assert warned(averager, "tensors", "p") == []
    assert len(warned(averager, "tensors", "ema_0.5")) == 1


@pytest.mark.parametrize("call", ["coinciding", "explain"])
def test_who_has_asked_is_not_told(call):
    averager = walked([0.5, 0.9], steps=2)
    getattr(averager, call)()
    assert warned(averager, "tensors", "ema_0.5") == []


def test_refreshing_statistics_of_equal_averages_says_so_too():
    averager = walked([0.5, 0.9], steps=2)
    with pytest.warns(RuntimeWarning, match="equal so far"):
        averager.refresh_batchnorm([batch(0)])
