"""Averages on another device than the weights; the meta device plays it, which holds no values."""

import pytest
import torch
from support.late_answers import inf, late_answers, skippable_step
from support.small_networks import batch, drift, net

from polyak import Averager, Uniform, Window

META = torch.device("meta")


def everything(averager):
    """All that is stored, by whatever name."""
    state = averager.state_dict()
    parts = [state["copied"]]
    parts += [row for part in ("tensors", "remainder", "refreshed") for row in state[part].values()]
    return [x for part in parts for x in part.values()]


@pytest.mark.parametrize("buffers", ["average", "copy"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_is_stored_stays_on_its_device_through_updates_and_reads(buffers, dtype):
    model = net()
    kinds = [0.9, Uniform(), Window(2)]
    averager = Averager(
        model, kinds, device=META, buffers=buffers, dtype=dtype, nonfinite="allow", every=2
    )
    for seed in range(5):
        drift(model, seed)
        averager.step()
    assert averager.updates == 2
    assert {x.device for x in everything(averager)} == {META}
    for name in averager.names:
        assert {x.device for x in averager.tensors(name).values()} == {META}


@pytest.mark.parametrize("buffers", ["average", "copy"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_an_update_that_only_the_weights_device_can_judge_crosses_over(monkeypatch, buffers, dtype):
    """A fused step that may have been left out gates the update on the averages' device."""
    late_answers(monkeypatch)
    model = net()
    averager = Averager(model, [0.9, Uniform()], device=META, buffers=buffers, dtype=dtype)
    step = skippable_step(averager)
    for seed in range(4):
        drift(model, seed)
        step(inf(seed == 2))
    assert (averager.steps, averager.updates) == (3, 3)
    assert {x.device for x in everything(averager)} == {META}


def test_a_state_that_was_loaded_to_the_host_goes_to_the_averages_device():
    """As by torch.load(..., map_location="cpu"); refreshed statistics too."""
    model = net()
    here = Averager(model, [0.9, Window(2)])
    here.step()
    here.refresh_batchnorm([batch(1)])
    there = Averager(model, [0.9, Window(2)], device=META)
    there.load_state_dict(here.state_dict())
    assert {x.device for x in everything(there)} == {META}
    assert there.tensors("ema_0.9")["1.running_mean"].device == META
