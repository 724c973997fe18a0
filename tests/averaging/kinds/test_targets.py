"""Momentum on a cosine, soft updates and hard copies, as their papers write them."""

import math

import pytest
import torch
from support.small_networks import assert_same_bits, drift, net, snapshot, walk

from polyak import EMA, Averager, CosineEMA, HardCopy, Update, profile
from polyak.averaging.kinds.records import from_record, to_record
from polyak.errors import ConfigError


def at(t, every=1):
    """Update number t of a regular bank."""
    return Update(index=t, step=(t + 1) * every, since=every)


@pytest.mark.parametrize("every", [1, 4])
def test_momentum_is_byols_formula_written_out(every):
    steps = 200
    kind = EMA.cosine(0.996, 1.0, steps)
    for t in range(60):
        k = t * every
        tau = 1 - (1 - 0.996) * (math.cos(math.pi * min(k, steps) / steps) + 1) / 2
        assert 1 - kind.weight(at(t, every), t) == pytest.approx(tau, abs=1e-15)


def test_momentum_is_the_schedule_of_dinos_code():
    numpy = pytest.importorskip("numpy")
    base, final, epochs, per_epoch = 0.996, 1.0, 4, 25
    iters = numpy.arange(epochs * per_epoch)
    schedule = final + 0.5 * (base - final) * (1 + numpy.cos(numpy.pi * iters / len(iters)))
    kind = EMA.cosine(base, final, epochs=epochs, steps_per_epoch=per_epoch)
    got = [1 - kind.weight(at(t), t) for t in range(len(iters))]
    assert got == pytest.approx(schedule.tolist(), abs=1e-15)


def test_after_its_steps_the_decay_stays():
    kind = EMA.cosine(0.9, 0.99, 10)
    assert [round(1 - kind.weight(at(t), t), 12) for t in (10, 11, 500)] == [0.99] * 3
    model = net()
    averager = Averager(model, EMA.cosine(0.9, 1.0, 3))
    walk(averager, model, range(4))
    held = averager.tensors()
    walk(averager, model, range(4, 7))
    floats = {name: x for name, x in held.items() if x.is_floating_point()}
    assert_same_bits({name: averager.tensors()[name] for name in floats}, floats)


def test_units_are_one_length():
    by_steps = EMA.cosine(0.99, 1.0, 1000)
    assert EMA.cosine(0.99, 1.0, epochs=10, steps_per_epoch=100) == by_steps
    assert EMA.cosine(0.99, 1.0, samples=32_000, batch_size=32) == by_steps
    with pytest.raises(ConfigError, match="the schedule is given in"):
        EMA.cosine(0.99, 1.0)
    with pytest.raises(ConfigError, match="epochs is 3 and steps_per_epoch None; expected > 0"):
        EMA.cosine(0.99, 1.0, epochs=3)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ((1.1, 1.0, 10), r"start is 1\.1"),
        ((0.9, -1, 10), "end is -1"),
        ((0.9, 1.0, math.inf), "inf"),
        ((0.9, 1.0, 0), "steps is 0"),
        ((True, 1.0, 5), "start is True"),
    ],
)
def test_a_schedule_outside_its_range_is_refused(settings, fault):
    with pytest.raises(ConfigError, match=fault):
        EMA.cosine(*settings)


def test_tau_is_a_soft_update_without_warm_up():
    kind = EMA.tau(0.005)
    assert kind.label == "tau_0.005"
    assert [kind.weight(at(t), t) for t in (0, 1000)] == pytest.approx([0.005, 0.005])
    assert EMA.tau(1.0).weight(at(0), 0) == 1.0
    assert EMA.tau(0.1, name="critic").label == "critic"


@pytest.mark.parametrize("tau", [0.0, 1.1, "0.1", math.nan])
def test_a_tau_outside_its_range_is_refused(tau):
    with pytest.raises(ConfigError, match="expected 0 < tau <= 1"):
        EMA.tau(tau)


@pytest.mark.parametrize(("every", "period"), [(3, 1), (6, 2), (4, 4)])
def test_a_hard_copy_is_the_weights_of_the_last_multiple_bit_for_bit(every, period):
    model = net()
    averager = Averager(model, HardCopy(every), every=period)
    start = held = snapshot(model)
    for step in range(1, 20):
        drift(model, step)
        averager.step()
        if step % every == 0:
            held = snapshot(model)
        got = averager.tensors()
        for name, x in held.items():
            if x.is_floating_point():
                assert torch.equal(got[name], x), (name, step)
    assert held is not start


def test_a_hard_copy_at_a_step_that_had_no_update_comes_with_the_next():
    kind = HardCopy(4)
    assert kind.weight(Update(index=0, step=5, since=5), 0) == 1.0
    assert kind.weight(Update(index=1, step=7, since=2), 1) == 0.0
    assert kind.weight(Update(index=2, step=13, since=6), 1) == 1.0


def test_the_profile_of_a_hard_copy_is_its_last_update():
    assert profile(HardCopy(2), updates=5) == (0, 0, 0, 0, 1.0, 0)
    assert profile(HardCopy(2), updates=1) == (1.0, 0)


def test_copies_between_the_updates_of_a_bank_are_refused():
    with pytest.raises(ConfigError, match=r"every of 'copy_every_3' is 3; expected a multiple"):
        Averager(net(), HardCopy(3), every=2)
    with pytest.raises(ConfigError, match=r"every is 0; expected optimizer steps"):
        HardCopy(0)


@pytest.mark.parametrize("kind", [EMA.cosine(0.9, 1.0, 10), EMA.tau(0.1), HardCopy(5, name="q")])
def test_records_and_words_know_it(kind):
    assert from_record(to_record(kind)) == kind
    averager = Averager(net(), kind)
    averager.step()
    assert kind.label in averager.explain()
    assert averager.explain(total_steps=20)


def test_names_are_its_settings():
    assert EMA.cosine(0.996, 1.0, 10).label == "ema_0.996_to_1"
    assert CosineEMA(0.5, 0.9, steps=10, name="mine").label == "mine"
    assert HardCopy(10_000).label == "copy_every_10000"


def test_a_bank_of_all_goes_on_from_its_state_as_if_it_had_never_stopped():
    kinds = [EMA.cosine(0.9, 1.0, 12), EMA.tau(0.2), HardCopy(3)]
    model, never, stopped = net(), None, None
    never, stopped = Averager(model, kinds), Averager(model, kinds)
    for seed in range(12):
        drift(model, seed)
        never.step()
        stopped.step()
        if seed == 4:
            state = stopped.state_dict()
            stopped = Averager(model, kinds)
            stopped.load_state_dict(state)
    for name in never.names:
        assert_same_bits(stopped.tensors(name), never.tensors(name))
