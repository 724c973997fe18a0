"""Averages in host memory, against averages beside the weights."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.late_answers import LateTransfer, offloaded
from support.small_networks import (
    EVERY_KIND,
    assert_same_bits,
    batch,
    drift,
    net,
    snapshot,
    through_a_file,
    train_step,
    walk,
)

from polyak import EMA, Averager, Uniform, Window, load, save
from polyak.averaging.model import transfer
from polyak.errors import NonFiniteError

KINDS = (*EVERY_KIND, Window(2), Window(3, every=12))
REPEATED = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
TRANSFERS = pytest.mark.parametrize("transfer", [transfer.Transfer, LateTransfer])


def pair(model, kinds=KINDS, **options):
    """An averager in host memory, and its twin beside the weights."""
    return Averager(model, kinds, device="cpu", **options), Averager(model, kinds, **options)


def assert_alike(one, two):
    for name in one.names:
        assert_same_bits(one.tensors(name), two.tensors(name))
    assert one.state_dict()["history"] == two.state_dict()["history"]


@TRANSFERS
@REPEATED
@given(
    steps=st.integers(0, 14),
    every=st.sampled_from([1, 2, 3, 4, 6]),
    reads=st.sets(st.integers(0, 13)),
    buffers=st.sampled_from(["average", "copy"]),
    dtype=st.sampled_from([None, torch.float64, torch.bfloat16]),
)
def test_averages_in_host_memory_are_those_beside_the_weights_bit_for_bit(
    transfer, steps, every, reads, buffers, dtype
):
    with pytest.MonkeyPatch.context() as patch:
        offloaded(patch, transfer)
        torch.manual_seed(0)
        model = net()
        there, here = pair(model, every=every, buffers=buffers, dtype=dtype)
        for seed in range(steps):
            drift(model, seed)
            here.step()
            there.step()
            if seed in reads:
                assert_alike(there, here)
        assert_alike(there, here)


def test_the_host_folds_in_at_the_next_step_or_when_an_average_is_read(monkeypatch):
    offloaded(monkeypatch)
    model = net()
    averager = Averager(model, [EMA(0.0, warmup=None)], device="cpu", every=2)
    row = averager.state_dict()["tensors"]["ema_0"]["0.weight"]
    before = row.clone()
    walk(averager, model, range(2))
    sent = model[0].weight.detach().clone()
    assert torch.equal(row, before)  # the copy is down, the host has not folded it in yet
    drift(model, 3)
    averager.step()
    assert torch.equal(row, sent)
    walk(averager, model, range(4, 5))
    sent = model[0].weight.detach().clone()
    drift(model, 5)
    assert torch.equal(averager.tensors("ema_0")["0.weight"], sent)


def test_a_copy_that_is_not_down_is_not_waited_for_before_it_must(monkeypatch):
    offloaded(monkeypatch, LateTransfer)
    model = net()
    averager = Averager(model, [EMA(0.0, warmup=None)], device="cpu", every=3)
    monkeypatch.setattr(averager._counting, "_fence_unless_attached", lambda: None)
    transfer = averager._current.staging._transfer
    for _ in range(5):
        averager.step()
    assert transfer.calls == ["start"]
    averager.step()
    assert transfer.calls == ["start", "wait", "start"]


@pytest.mark.parametrize(
    ("optimizers", "expected"),
    [
        (lambda m: [], ["start", "fence"]),
        (lambda m: [m[0].parameters()], ["start", "fence"]),
        (lambda m: [m.parameters()], ["start"]),
    ],
    ids=["none attached", "one attached that holds a part", "one that holds all"],
)
def test_the_fence_waits_for_the_optimizers_step_only_where_that_will_raise_it(
    monkeypatch, optimizers, expected
):
    offloaded(monkeypatch, LateTransfer)
    model = net()
    averager = Averager(model, [0.9], device="cpu")
    made = [torch.optim.SGD(parameters, lr=0.1) for parameters in optimizers(model)]
    for optimizer in made:
        averager.attach(optimizer)
    transfer = averager._current.staging._transfer
    averager.update()
    assert transfer.calls == expected


@TRANSFERS
@pytest.mark.parametrize("every", [1, 3])
def test_a_step_never_overtakes_the_copy_of_the_weights_before_it(monkeypatch, transfer, every):
    """C13: torchtitan's next step may write to weights that its side stream still reads."""
    offloaded(monkeypatch, transfer)
    torch.manual_seed(0)
    model = net(dropout=0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    there, here = pair(model, every=every)
    there.attach(optimizer)
    here.attach(optimizer)
    for seed in range(13):
        train_step(model, optimizer, seed)
    assert_alike(there, here)


@TRANSFERS
def test_a_loop_without_hooks_is_fenced_at_once(monkeypatch, transfer):
    """C13: without a hook nobody would wait before the next step."""
    offloaded(monkeypatch, transfer)
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    there, here = pair(model, every=2)
    for seed in range(9):
        train_step(model, optimizer, seed)
        there.step()
        here.step()
        if seed == 4:
            there.update()
            here.update()
    assert_alike(there, here)


@TRANSFERS
@REPEATED
@given(before=st.integers(0, 9), after=st.integers(0, 9), every=st.sampled_from([1, 2, 3, 4]))
def test_a_resumed_bank_in_host_memory_is_one_that_never_stopped(transfer, before, after, every):
    """Also where the last update was not folded in yet, and to and from one beside the weights."""
    with pytest.MonkeyPatch.context() as patch:
        offloaded(patch, transfer)
        torch.manual_seed(0)
        model = net()
        there, here = pair(model, every=every)
        for seed in range(before):
            drift(model, seed)
            there.step()
            here.step()
        saved, weights = through_a_file(there.state_dict()), snapshot(model)
        model = net()
        model.load_state_dict(weights)
        resumed, moved = pair(model, every=every)
        resumed.load_state_dict(saved)
        moved.load_state_dict(saved)
        twin = Averager(model, KINDS, every=every)
        twin.load_state_dict(through_a_file(here.state_dict()))
        for seed in range(50, 50 + after):
            drift(model, seed)
            for averager in (resumed, moved, twin):
                averager.step()
        assert_alike(resumed, twin)
        assert_alike(moved, twin)


def test_loading_a_state_ends_what_was_on_its_way(monkeypatch):
    offloaded(monkeypatch)
    model = net()
    averager = Averager(model, [0.9], device="cpu")
    start = through_a_file(averager.state_dict())
    walk(averager, model, range(1))
    averager.load_state_dict(start)
    assert averager.updates == 0
    walk(averager, model, range(1))
    assert averager.updates == 1


@TRANSFERS
def test_an_applied_average_is_that_of_the_update_just_made(monkeypatch, transfer, tmp_path):
    offloaded(monkeypatch, transfer)
    torch.manual_seed(0)
    model = net()
    there, here = pair(model, [EMA(0.5, warmup=None), Uniform()])
    for seed in range(3):
        drift(model, seed)
        there.step()
        here.step()
        own = snapshot(model)
        with here.applied("uniform"):
            expected = snapshot(model)
        with there.applied("uniform"):
            assert_same_bits(snapshot(model), expected)
        assert_same_bits(snapshot(model), own)
        assert_same_bits(there.module("ema_0.5").state_dict(), here.module("ema_0.5").state_dict())
    save(there, tmp_path / "a.safetensors")
    assert_same_bits(load(tmp_path / "a.safetensors")["uniform"], here.tensors("uniform"))


@TRANSFERS
def test_refreshed_statistics_outlive_the_update_before_them_and_not_the_next(
    monkeypatch, transfer
):
    offloaded(monkeypatch, transfer)
    torch.manual_seed(0)
    model = net()
    there, here = pair(model, [0.9])
    for averager in (there, here):
        drift(model, 0) if averager is there else None
        averager.step()
        averager.refresh_batchnorm([batch(1), batch(2)])
    assert_alike(there, here)
    assert there.state_dict()["refreshed"]
    for averager in (there, here):
        averager.step()
    assert not there.state_dict()["refreshed"]
    assert_alike(there, here)


@TRANSFERS
def test_bad_weights_are_skipped_counted_and_named(monkeypatch, transfer):
    offloaded(monkeypatch, transfer)
    model = net()
    averager = Averager(model, [0.9], device="cpu")
    held, good = averager.tensors("ema_0.9"), snapshot(model)
    with torch.no_grad():
        model[4].bias[1] = torch.nan
    averager.step()
    model.load_state_dict(good)  # what came down is judged, not what the weights are by then
    with pytest.warns(RuntimeWarning, match=r"4\.bias hold NaN or infinity.*skip"):
        assert (averager.steps, averager.updates, averager.skipped) == (1, 0, 1)
    assert_same_bits(averager.tensors("ema_0.9"), held)


def test_bad_weights_can_raise_when_they_are_down(monkeypatch):
    offloaded(monkeypatch)
    model = net()
    averager = Averager(model, [0.9], device="cpu", nonfinite="raise")
    with torch.no_grad():
        model[4].bias[1] = torch.nan
    averager.step()
    with pytest.raises(NonFiniteError, match=r"4\.bias"):
        averager.step()


def test_bad_weights_can_be_allowed_in(monkeypatch):
    offloaded(monkeypatch)
    model = net()
    averager = Averager(model, [0.9], device="cpu", nonfinite="allow")
    with torch.no_grad():
        model[4].bias[1] = torch.nan
    averager.step()
    assert torch.isnan(averager.tensors("ema_0.9")["4.bias"]).tolist() == [False, True]


@TRANSFERS
def test_a_model_that_changes_its_dtype_or_layout_is_followed(monkeypatch, transfer):
    offloaded(monkeypatch, transfer)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    there, here = pair(model, [0.9, Window(2)])
    changes = (None, model.double, lambda: model.to(memory_format=torch.channels_last), model.float)
    for seed, change in enumerate(changes):
        if change:
            change()
        drift(model, seed)
        there.step()
        here.step()
    assert_alike(there, here)


@TRANSFERS
def test_a_layer_that_is_tracked_joins_after_what_is_on_its_way(monkeypatch, transfer):
    offloaded(monkeypatch, transfer)
    torch.manual_seed(0)
    model = net()
    model[0].requires_grad_(False)
    there, here = pair(model, [0.9, Window(2)])
    for seed in range(6):
        drift(model, seed)
        there.step()
        here.step()
        if seed == 2:
            model[0].requires_grad_(True)
            there.track()
            here.track()
    assert_alike(there, here)


def test_weights_on_the_host_need_no_way_down():
    """On a machine without a device, device="cpu" is the ordinary bank."""
    averager = Averager(net(), [0.9], device="cpu")
    assert not averager._current.offloaded


@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "with gaps"])
def test_one_staging_serves_all_updates(monkeypatch, gaps):
    offloaded(monkeypatch)
    model = net()
    if gaps:
        model[0].weight = torch.nn.Parameter(torch.randn(4, 6)[:, ::2])
    averager = Averager(model, [0.9], device="cpu")
    staging = averager._current.staging
    walk(averager, model, range(4))
    assert averager._current.staging is staging


def test_a_model_that_leaves_its_device_and_changes_its_dtype_is_followed(monkeypatch):
    model = net()
    with monkeypatch.context() as patch:
        offloaded(patch)
        there, here = pair(model, [0.9])
        for averager in (there, here):
            averager.step()
    model.double()
    drift(model, 1)
    for averager in (there, here):
        averager.step()
    assert_alike(there, here)
