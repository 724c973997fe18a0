"""What only a CUDA device can show: streams, fences, and a host that does not wait.

pytest -m gpu tests/averaging
"""

from contextlib import contextmanager

import pytest
import torch
from support.small_networks import EVERY_KIND, assert_same_bits
from torch import nn

from polyak import EMA, Averager, Uniform, Window

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    # torch says so once in a process, when the mode of `no_waiting` is first set.
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

KINDS = (*EVERY_KIND, Window(2))


def network(width=64):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
    ).cuda()


def trained(model, optimizer, seed, *, scaler=None, factor=1.0):
    """One step of training on a batch of its own."""
    width = model[0].in_features
    x = torch.randn(32, width, generator=torch.Generator().manual_seed(seed)).cuda()
    optimizer.zero_grad()
    loss = model(x).square().mean() * factor
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


@contextmanager
def no_waiting():
    """An error for every call that makes the host wait for the device (except for events)."""
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_close(one, two):
    for name in one.names:
        for key, x in two.tensors(name).items():
            got = one.tensors(name)[key]
            torch.testing.assert_close(got.cpu(), x.cpu(), rtol=1e-5, atol=1e-6)
    assert one.state_dict()["history"] == two.state_dict()["history"]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("attached", [True, False])
def test_averages_in_host_memory_are_those_beside_the_weights(every, attached):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
    there = Averager(model, KINDS, every=every, device="cpu")
    here = Averager(model, KINDS, every=every)
    if attached:
        there.attach(optimizer)
        here.attach(optimizer)
    for seed in range(20):
        trained(model, optimizer, seed)
        if not attached:
            there.step()
            here.step()
    assert all(x.device.type == "cpu" for x in there.tensors("ema_0.9").values())
    assert_close(there, here)


def test_a_step_never_overtakes_the_copy_of_the_weights_before_it():
    """C13. All weights are filled with the step's number, so that a torn copy shows at once."""
    model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(8))).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
            p.grad = torch.full_like(p, -1.0)
    averager = Averager(model, [EMA(0.0, warmup=None)], device="cpu")
    averager.attach(optimizer)
    for step in range(1, 31):
        for _ in range(3):
            optimizer.step()
        for x in averager.tensors("ema_0").values():
            assert x.min() == x.max() == 3.0 * step


def test_the_host_memory_is_pinned_and_the_parameters_copies_run_beside():
    model = network()
    averager = Averager(model, [0.9], device="cpu")
    staging = averager._current.staging
    assert all(x.is_pinned() for x in staging.tensors.values())
    averager.step()
    assert set(staging._transfer._events) == {next(model.parameters()).device}


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("nonfinite", ["skip", "allow"])
def test_counting_and_updating_never_make_the_host_wait(device, nonfinite):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    averager = Averager(model, [0.9, Uniform()], every=2, device=device, nonfinite=nonfinite)
    averager.attach(optimizer)
    trained(model, optimizer, 0)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    with no_waiting():
        for _ in range(9):
            optimizer.found_inf = torch.zeros((), device="cuda")
            optimizer.grad_scale = None
            optimizer.step()
    del optimizer.found_inf, optimizer.grad_scale
    assert (averager.steps, averager.updates) == (10, 5)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_fused_steps_under_grad_scaler_count_right(device, every):
    model = network().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    late = Averager(model, KINDS, every=every, device=device)
    twin = Averager(model, KINDS, every=every, nonfinite="allow")
    late.attach(optimizer)
    scaler = torch.amp.GradScaler("cuda")
    factors = [1.0, float("inf"), 1.0, 1.0, float("nan"), 1.0, float("inf"), 1.0, 1.0]
    for seed, factor in enumerate(factors):
        trained(model, optimizer, seed, scaler=scaler, factor=factor)
        if factor == 1.0:
            twin.step()
    assert_close(late, twin)
    assert late.steps == 6


@pytest.mark.parametrize("device", [None, "cpu"])
def test_bad_weights_are_skipped_on_the_device(device):
    model = network()
    averager = Averager(model, KINDS[:-1], device=device)
    held = {name: averager.tensors(name) for name in averager.names}
    with torch.no_grad():
        model[3].bias[1] = torch.nan
    averager.step()
    with pytest.warns(RuntimeWarning, match=r"3\.bias hold NaN or infinity"):
        assert averager.skipped == 1
    for name in averager.names:
        assert_same_bits(averager.tensors(name), held[name])


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_resumed_bank_is_one_that_never_stopped(device):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    never = Averager(model, KINDS, every=3, device=device)
    never.attach(optimizer)
    for seed in range(7):
        trained(model, optimizer, seed)
    resumed = Averager(model, KINDS, every=3, device=device)
    resumed.load_state_dict(never.state_dict())
    resumed.attach(optimizer)
    for seed in range(7, 15):
        trained(model, optimizer, seed)
    for name in never.names:
        assert_same_bits(resumed.tensors(name), never.tensors(name))


@pytest.mark.parametrize("device", [None, "cpu"])
def test_the_model_holds_an_average_inside_the_block_and_its_own_weights_after(device):
    model = network()
    averager = Averager(model, [0.5], device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager.attach(optimizer)
    for seed in range(3):
        trained(model, optimizer, seed)
    own = {key: x.clone() for key, x in model.state_dict().items()}
    with averager.applied("ema_0.5"):
        for key, x in averager.tensors("ema_0.5").items():
            assert torch.equal(model.state_dict()[key], x.cuda())
    assert_same_bits(model.state_dict(), own)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("nonfinite", ["skip", "allow"])
def test_a_live_model_is_the_average_wherever_that_lies(device, nonfinite):
    model = network()
    averager = Averager(model, EMA(0.9, None, name="e"), device=device, nonfinite=nonfinite)
    live = averager.live()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager.attach(optimizer)
    x = torch.randn(8, 64).cuda()
    for seed in range(4):
        trained(model, optimizer, seed)
        with torch.no_grad():
            assert torch.equal(live(x), averager.module()(x))
    assert live[0].weight.is_cuda
