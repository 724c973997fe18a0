"""Exact continuation: a resumed bank is one that never stopped."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import (
    EVERY_KIND,
    Scalar,
    assert_same_bits,
    net,
    snapshot,
    through_a_file,
    walk,
)
from torch import nn

from polyak import EMA, Averager, PowerEMA, Window
from polyak.errors import ConfigError, StateError, WeightMismatchError

periods = st.integers(1, 6)
lengths = st.integers(0, 25)


class Counter(nn.Module):
    """Holds an integer and nothing to average."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(0))


@given(every=periods, before=lengths, after=lengths, buffers=st.sampled_from(["average", "copy"]))
def test_a_resumed_bank_is_one_that_never_stopped_bit_for_bit(every, before, after, buffers):
    """C10: mid-period included; elsewhere the phase, the counter or the decay is lost."""
    torch.manual_seed(0)
    model = net()
    never = Averager(model, EVERY_KIND, every=every, buffers=buffers)
    walk(never, model, range(before))
    saved, weights = through_a_file(never.state_dict()), snapshot(model)
    walk(never, model, range(100, 100 + after))

    model = net()
    resumed = Averager(model, EVERY_KIND, every=every, buffers=buffers)
    model.load_state_dict(weights)
    resumed.load_state_dict(saved)
    walk(resumed, model, range(100, 100 + after))

    assert (resumed.steps, resumed.updates) == (never.steps, never.updates)
    assert resumed.explain() == never.explain()
    for name in never.names:
        assert_same_bits(resumed.tensors(name), never.tensors(name))


@pytest.mark.parametrize("manual", [0, 1, 3])
def test_manual_updates_survive_a_resume(manual):
    models = Scalar(), Scalar()
    never, resumed = (Averager(m, [PowerEMA(gamma=2.0, name="m")], every=3) for m in models)
    for t in range(4):
        models[0].set(t)
        never.step()
    for _ in range(manual):
        never.update()
    resumed.load_state_dict(through_a_file(never.state_dict()))
    for averager, model in zip((never, resumed), models, strict=True):
        for t in range(10, 17):
            model.set(t)
            averager.step()
    assert_same_bits(resumed.tensors("m"), never.tensors("m"))


def test_counts_that_half_precision_cannot_hold_survive_a_resume():
    """C1: ema-pytorch's checkpoints cast the step to float16, where 70,000 is infinity."""
    models = Scalar(), Scalar()
    never, resumed = (Averager(m, [PowerEMA(gamma=2.0, name="m")]) for m in models)
    state = never.state_dict()
    state["history"] |= {name: 70_001 for name in ("steps", "updates", "position")}
    state["history"]["steps_at_update"] = 70_001
    never.load_state_dict(state)
    resumed.load_state_dict(through_a_file(never.state_dict()))
    for averager, model in zip((never, resumed), models, strict=True):
        model.set(1.0)
        averager.step()
        assert averager.steps == 70_002
    assert resumed.tensors("m")["w"].item() == pytest.approx(1 - (70_001 / 70_002) ** 3)
    assert_same_bits(resumed.tensors("m"), never.tensors("m"))


@pytest.mark.parametrize("lend", [False, True])
def test_a_state_holds_the_averages_and_neither_the_model_nor_a_backup_of_it(lend):
    """C9, C10: ema-pytorch's holds the raw weights too, torch-ema's a backup, however old."""
    model = net()
    averager = Averager(model, [0.9, 0.99])
    if lend:
        with averager.applied("ema_0.9"):
            pass
    state = averager.state_dict()
    stored = [*state["tensors"].values(), *state["remainder"].values(), state["copied"]]
    floats = [x for x in model.state_dict().values() if x.is_floating_point()]
    held = [x for row in stored for x in row.values() if x.is_floating_point()]
    assert sum(x.numel() for x in held) == 2 * sum(x.numel() for x in floats)
    assert not state["refreshed"]


def test_a_loaded_state_is_not_shared():
    model = net()
    one, two = Averager(model, [0.9]), Averager(model, [0.9])
    two.load_state_dict(one.state_dict())
    held = one.tensors("ema_0.9")
    one.step()
    walk(two, model, range(3))
    assert_same_bits(one.tensors("ema_0.9"), held)


def test_the_state_refers_to_the_averages_as_in_torch():
    model = net()
    averager = Averager(model, [0.9])
    state = averager.state_dict()
    walk(averager, model, range(1))
    assert torch.equal(
        state["tensors"]["ema_0.9"]["0.weight"], averager.tensors("ema_0.9")["0.weight"]
    )


@pytest.mark.parametrize(
    ("other", "error", "named"),
    [
        (lambda: Averager(net(), [0.99]), ConfigError, r"ema_0\.99.*expected.*ema_0\.9"),
        (lambda: Averager(net(), [0.9, 0.99]), ConfigError, "saved averages"),
        (lambda: Averager(net(), [EMA(0.9, warmup=None)]), ConfigError, "saved averages"),
        (lambda: Averager(net(), [0.9], every=2), ConfigError, "every 2 steps"),
        (lambda: Averager(nn.Linear(3, 2), [0.9]), WeightMismatchError, "missing"),
        (lambda: Averager(nn.Sequential(*net(), Counter()), [0.9]), WeightMismatchError, "seen"),
        (
            lambda: Averager(net(), [0.9], buffers="copy"),
            ConfigError,
            "of buffers='copy'; expected 'average'",
        ),
        (lambda: Averager(net(), [0.9], dtype=torch.float64), WeightMismatchError, "dtype"),
        (
            lambda: Averager(nn.Sequential(*net()[:4], nn.Linear(4, 3)), [0.9]),
            WeightMismatchError,
            r"shape of 4\.bias, 4\.weight",
        ),
    ],
    ids=["decay", "number", "warm-up", "period", "names", "integers", "buffers", "dtype", "shape"],
)
def test_a_state_of_another_bank_is_refused_and_changes_nothing(other, error, named):
    model = net()
    averager = Averager(model, [0.9])
    walk(averager, model, range(3))
    held, steps = averager.tensors("ema_0.9"), averager.steps
    with pytest.raises(error, match=named):
        averager.load_state_dict(other().state_dict())
    assert_same_bits(averager.tensors("ema_0.9"), held)
    assert averager.steps == steps


def test_a_models_state_is_refused():
    with pytest.raises(ConfigError, match="the state lacks averages, copied, history"):
        Averager(net(), [0.9]).load_state_dict(net().state_dict())


@pytest.mark.parametrize("copier", [copy.deepcopy, copy.copy, pickle.dumps])
def test_an_averager_is_bound_to_its_model(copier):
    with pytest.raises(StateError, match="bound to its model"):
        copier(Averager(net(), [0.9]))


def test_a_state_that_does_not_say_what_it_did_with_buffers_is_compared_by_names():
    state = Averager(net(), [0.9], buffers="copy").state_dict()
    del state["buffers"]
    with pytest.raises(WeightMismatchError, match=r"running_mean"):
        Averager(net(), [0.9]).load_state_dict(state)
    Averager(net(), [0.9], buffers="copy").load_state_dict(state)


class Best(nn.Module):
    """A weight, and a buffer for the lowest loss so far."""

    def __init__(self, best: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))
        self.register_buffer("best", torch.tensor(best))


@pytest.mark.parametrize(("before", "after"), [(torch.inf, 1.0), (1.0, torch.inf)])
def test_a_buffer_that_was_infinite_at_one_build_only_goes_on_as_it_was(before, after):
    """Copied if it was infinite when the first averager was built, else averaged."""
    models = Best(before), Best(after)
    never = Averager(models[0], [0.9, Window(2)])
    models[0].best.fill_(2.0)
    walk(never, models[0], range(3))
    resumed = Averager(models[1], [0.9, Window(2)])
    resumed.load_state_dict(through_a_file(never.state_dict()))
    models[1].load_state_dict(models[0].state_dict())
    for averager, model in zip((never, resumed), models, strict=True):
        walk(averager, model, range(3, 6))
    assert (resumed.updates, resumed.skipped) == (6, 0)
    for name in never.names:
        assert_same_bits(resumed.tensors(name), never.tensors(name))
    with resumed.applied("ema_0.9"):
        assert torch.equal(models[1].best, never.tensors("ema_0.9")["best"])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("frozen", [[0], [0, 1, 4]])
def test_a_resume_may_freeze_first_and_build_then(dtype, frozen):
    """The averages of what was frozen after the first build still move towards it."""
    models = net(), net()
    never = Averager(models[0], [0.9, Window(2)], every=2, dtype=dtype)
    walk(never, models[0], range(4))
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        for layer in frozen:
            model[layer].requires_grad_(False)
    walk(never, models[0], range(4, 7))
    models[1].load_state_dict(models[0].state_dict())
    resumed = Averager(models[1], [0.9, Window(2)], every=2, dtype=dtype)
    resumed.load_state_dict(through_a_file(never.state_dict()))
    for averager, model in zip((never, resumed), models, strict=True):
        walk(averager, model, range(7, 12))
    assert (resumed.steps, resumed.updates) == (never.steps, never.updates)
    for name in never.names:
        assert_same_bits(resumed.tensors(name), never.tensors(name))


def test_a_refused_state_leaves_what_is_frozen_out_of_the_averages():
    model = net()
    saved = Averager(nn.Sequential(*net()[:4], nn.Linear(4, 3)), [0.9]).state_dict()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    with pytest.raises(WeightMismatchError, match=r"shape of 4\.bias"):
        averager.load_state_dict(saved)
    assert "0.weight" not in averager.state_dict()["tensors"]["ema_0.9"]
