"""Numbers for curves: what they are, and that asking for them changes nothing."""

import math

import pytest
import torch
from support.small_networks import EVERY_KIND, Scalar, assert_same_bits, drift, net, walk
from torch import nn

from polyak import EMA, Averager, PowerEMA, Schedule, Uniform, Window, profile
from polyak.errors import StateError


def test_of_each_average_there_are_decay_age_and_distance():
    model = net()
    averager = Averager(model, [0.9, Uniform()])
    walk(averager, model, range(3))
    own = {"decay", "age", "distance"}
    assert averager.scalars().keys() == {
        *(f"{name}/{what}" for name in averager.names for what in own),
        "skipped",
    }


def test_the_decay_in_force_is_that_of_the_next_update():
    model = Scalar(1.0)
    averager = Averager(model, [EMA(0.9), EMA(0.5, None, name="plain"), Uniform()])
    averager.update()
    got = averager.scalars()
    assert got["ema_0.9/decay"] == pytest.approx(2 / 11)
    assert got["plain/decay"] == 0.5
    assert got["uniform/decay"] == 0.5
    before = averager.tensors("ema_0.9")["w"].clone()
    model.set(3.0)
    averager.update()
    d = got["ema_0.9/decay"]
    torch.testing.assert_close(averager.tensors("ema_0.9")["w"], d * before + (1 - d) * 3.0)


@pytest.mark.parametrize("every", [1, 3])
def test_the_age_is_that_of_the_profile_in_steps(every):
    model = net()
    averager = Averager(model, [*EVERY_KIND, Window(3)], every=every)
    kinds = {kind.label: kind for kind in [*EVERY_KIND, Window(3)]}
    for seed in range(30):
        drift(model, seed)
        averager.step()
        if seed not in (0, 10, 29):
            continue
        got = averager.scalars()
        for name, kind in kinds.items():
            shares = profile(kind, updates=averager.updates, every=every)
            age = sum(s * i for i, s in enumerate(reversed(shares))) * every
            assert got[f"{name}/age"] == pytest.approx(age, abs=1e-9), name


def test_an_age_that_nobody_knows_is_left_out():
    model = Scalar()
    averager = Averager(model, [PowerEMA(gamma=2.0), EMA(0.9)], every=4)
    averager.step()
    averager.update()
    got = averager.scalars()
    assert "power_0.194/age" not in got
    assert got["ema_0.9/age"] > 0


def test_the_age_is_right_again_after_going_back_to_an_earlier_state():
    model = net()
    averager = Averager(model, PowerEMA(gamma=2.0))
    walk(averager, model, range(5))
    early, state = averager.scalars(), averager.state_dict()
    state = {**state, "tensors": {n: dict(r) for n, r in state["tensors"].items()}}
    walk(averager, model, range(5, 9))
    later = averager.scalars()
    averager.load_state_dict(state)
    assert averager.scalars()["power_0.194/age"] == early["power_0.194/age"]
    assert early["power_0.194/age"] < later["power_0.194/age"]


def test_the_distance_is_relative_and_of_parameters_alone():
    model = net()
    averager = Averager(model, EMA(0.5, None, name="ema"))
    walk(averager, model, range(4))
    own, held = dict(model.named_parameters()), averager.tensors()
    apart = sum((own[k] - held[k]).double().square().sum().item() for k in own)
    size = sum(own[k].double().square().sum().item() for k in own)
    assert averager.scalars()["ema/distance"] == pytest.approx(math.sqrt(apart / size), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_the_distance_is_that_of_any_dtype(dtype):
    model = nn.Module()
    model.w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=dtype))
    averager = Averager(model, EMA(0.5, None, name="ema"))
    with torch.no_grad():
        model.w.mul_(2)
    assert averager.scalars()["ema/distance"] == pytest.approx(0.5)


def test_weights_that_are_all_zero_have_no_distance():
    model = Scalar(0.0)
    averager = Averager(model, 0.9)
    assert averager.scalars()["ema_0.9/distance"] == 0.0


def test_skipped_updates_are_counted():
    model = Scalar(1.0)
    averager = Averager(model, 0.9)
    model.set(math.nan)
    with pytest.warns(RuntimeWarning, match="skip such updates"):
        averager.step()
    model.set(1.0)
    assert averager.scalars()["skipped"] == 1.0


def test_all_are_numbers_that_a_logger_takes():
    model = net()
    averager = Averager(model, [0.9, Window(2), Schedule(lambda update: 0.5, name="half")])
    walk(averager, model, range(3))
    assert all(type(x) is float and math.isfinite(x) for x in averager.scalars().values())


def test_asking_changes_nothing():
    model, twin = net(), net()
    twin.load_state_dict(model.state_dict())
    asked, unasked = Averager(model, [0.9]), Averager(twin, [0.9])
    for seed in range(4):
        drift(model, seed)
        drift(twin, seed)
        asked.step()
        unasked.step()
        asked.scalars()
    assert_same_bits(asked.tensors(), unasked.tensors())


def test_while_an_average_is_applied_it_is_refused():
    averager = Averager(net(), 0.9)
    with averager.applied(), pytest.raises(StateError, match=r"scalars\(\) was called"):
        averager.scalars()
