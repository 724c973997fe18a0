"""Refreshed statistics beside the averaged ones."""

from collections.abc import Iterator

import pytest
import torch
from support.small_networks import (
    assert_same_bits,
    batch,
    drift,
    net,
    raising,
    snapshot,
    train_step,
)
from torch import Tensor, nn

from polyak import EMA, Averager, PowerEMA, Uniform, refresh_batchnorm
from polyak.errors import ConfigError, DataError

BATCHES = [batch(1, 8), batch(2, 8), batch(3, 3)]
KINDS = (0.9, EMA(0.5, warmup=None), PowerEMA(gamma=3.0), Uniform())


def trained(model: nn.Module, *, steps: int = 4, **options) -> Averager:
    averager = Averager(model, KINDS, **options)
    for seed in range(steps):
        drift(model, seed)
        with torch.no_grad():
            model[1].running_var.abs_()
        averager.step()
    return averager


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_each_average_gets_the_statistics_of_its_own_weights(buffers):
    averager = trained(net(dropout=0.5), buffers=buffers)
    expected = {}
    for name in averager.names:
        module = averager.module(name)
        refresh_batchnorm(module, BATCHES)
        expected[name] = snapshot(module)
    averager.refresh_batchnorm(BATCHES)
    for name in averager.names:
        assert_same_bits(averager.tensors(name), expected[name])
        assert_same_bits(averager.module(name).state_dict(), expected[name])
        with averager.applied(name) as model:
            assert_same_bits(snapshot(model), expected[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_refreshed_statistics_have_the_dtype_of_the_averaged_ones(dtype):
    averager = trained(net().to(dtype))
    before = {n: x.dtype for n, x in averager.tensors("uniform").items()}
    averager.refresh_batchnorm([x.to(dtype) for x in BATCHES])
    assert {n: x.dtype for n, x in averager.tensors("uniform").items()} == before


def test_all_averages_share_one_pass_over_the_data():
    reads = []

    def batches() -> Iterator[Tensor]:
        for x in BATCHES:
            reads.append(len(x))
            yield x

    trained(net()).refresh_batchnorm(batches())
    assert reads == [8, 8, 3]


def test_max_samples_and_forward_are_passed_on():
    averager, twin = trained(net()), trained(net())
    twin.load_state_dict(averager.state_dict())
    twin.model.load_state_dict(averager.model.state_dict())
    averager.refresh_batchnorm(
        [{"a": x} for x in BATCHES], max_samples=9, forward=lambda m, b: m(b["a"])
    )
    twin.refresh_batchnorm(BATCHES[:2])
    assert_same_bits(averager.tensors("uniform"), twin.tensors("uniform"))


def test_the_next_update_drops_them():
    model = net()
    averager, plain = trained(model, every=2), Averager(model, KINDS, every=2)
    plain.load_state_dict(averager.state_dict())
    averager.refresh_batchnorm(BATCHES)
    averager.step()  # no update yet
    plain.step()
    assert not torch.equal(
        averager.tensors("uniform")["1.running_mean"], plain.tensors("uniform")["1.running_mean"]
    )
    averager.step()
    plain.step()
    assert_same_bits(averager.tensors("uniform"), plain.tensors("uniform"))


@pytest.mark.parametrize("shuffle", [False, True])
def test_refreshing_every_epoch_changes_no_later_weight_by_one_bit(shuffle):
    """Neither of an average nor of the model, with a loader that draws from torch's generator."""
    ends = []
    data = torch.utils.data.TensorDataset(batch(5, 24))
    for refresh in (False, True):
        torch.manual_seed(1)
        model = net(dropout=0.3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        averager = Averager(model, KINDS, every=2)
        averager.attach(optimizer)
        loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=shuffle)
        for _ in range(3):
            for (x,) in loader:
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
            if refresh:
                averager.refresh_batchnorm(loader)
        averager.update()
        ends.append([snapshot(model), *(averager.tensors(n) for n in averager.names)])
    for plain, refreshed in zip(*ends, strict=True):
        assert_same_bits(refreshed, plain)


def test_the_live_models_statistics_are_untouched():
    """C6: ignite's pass over the average overwrites the model's own statistics."""
    model = net(dropout=0.5)
    averager = trained(model)
    own, state = snapshot(model), torch.get_rng_state()
    averager.refresh_batchnorm(BATCHES)
    assert_same_bits(snapshot(model), own)
    assert all(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_only_the_named_averages_are_refreshed():
    averager = trained(net())
    held = {name: averager.tensors(name) for name in averager.names}
    averager.refresh_batchnorm(BATCHES, ["ema_0.5", "uniform"])
    for name in averager.names:
        same = torch.equal(averager.tensors(name)["1.running_mean"], held[name]["1.running_mean"])
        assert same == (name not in ("ema_0.5", "uniform"))


def test_a_second_refresh_replaces_the_first():
    averager = trained(net())
    averager.refresh_batchnorm([batch(9)])
    averager.refresh_batchnorm(BATCHES)
    twice = averager.tensors("uniform")
    averager.refresh_batchnorm(BATCHES)
    assert_same_bits(averager.tensors("uniform"), twice)


def failing() -> Iterator[Tensor]:
    yield batch(0)
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("batches", "options", "error"),
    [
        (failing, {}, RuntimeError),
        (lambda: BATCHES, {"forward": raising}, RuntimeError),
        (list, {}, DataError),
        (lambda: BATCHES, {"names": ["ema_0.8"]}, ConfigError),
        (lambda: BATCHES, {"max_samples": 0}, ConfigError),
        (lambda: [object()], {}, DataError),
    ],
    ids=["loader", "forward", "empty", "name", "max_samples", "form"],
)
@pytest.mark.parametrize("refreshed_before", [False, True])
def test_a_pass_that_raises_leaves_everything_as_it_was(batches, options, error, refreshed_before):
    """C8: after torch's the momentum is None and the model trains."""
    model = net()
    averager = trained(model)
    if refreshed_before:
        averager.refresh_batchnorm([batch(7)])
    model[1].momentum = 0.3
    model[3].eval()
    own = snapshot(model)
    held = {name: averager.tensors(name) for name in averager.names}
    with pytest.raises(error):
        averager.refresh_batchnorm(batches(), **options)
    assert_same_bits(snapshot(model), own)
    assert model[1].momentum == 0.3
    assert [m.training for m in model] == [True, True, True, False, True]
    assert not any(m._forward_hooks for m in model.modules())
    for name in averager.names:
        assert_same_bits(averager.tensors(name), held[name])
    averager.step()


def test_a_bank_without_batchnorm_needs_no_batch():
    model = nn.Linear(3, 2)
    averager = Averager(model, [0.9])
    held = averager.tensors("ema_0.9")
    averager.refresh_batchnorm(iter([]))
    assert_same_bits(averager.tensors("ema_0.9"), held)


def test_refreshed_statistics_survive_a_resume():
    """C10: bit for bit, refreshed or not."""
    model = net()
    averager = trained(model)
    averager.refresh_batchnorm(BATCHES)
    resumed = Averager(model, KINDS)
    resumed.load_state_dict(averager.state_dict())
    for name in averager.names:
        assert_same_bits(resumed.tensors(name), averager.tensors(name))
    resumed.step()
    averager.step()
    for name in averager.names:
        assert_same_bits(resumed.tensors(name), averager.tensors(name))


def test_refreshing_inside_a_block_lasts_as_long_as_the_block():
    model = net()
    averager = trained(model)
    held, own = averager.tensors("uniform"), snapshot(model)
    with averager.applied("uniform"):
        refresh_batchnorm(model, BATCHES)
        inside = snapshot(model)
    assert_same_bits(averager.tensors("uniform"), held)
    assert_same_bits(snapshot(model), own)
    averager.refresh_batchnorm(BATCHES)
    assert_same_bits(averager.tensors("uniform"), inside)


def test_statistics_of_an_averaged_net_are_nearer_the_truth_once_refreshed():
    """C16: schedule-free's statistics belong to other weights than those that are evaluated."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    averager = Averager(model, [EMA(0.95, warmup=None)])
    averager.attach(optimizer)
    for seed in range(30):
        train_step(model, optimizer, seed)
    whole = batch(100, 512)
    with torch.no_grad():
        truth = averager.module("ema_0.95")[0](whole).mean(0)
    before = averager.tensors("ema_0.95")["1.running_mean"]
    averager.refresh_batchnorm(whole.split(64))
    after = averager.tensors("ema_0.95")["1.running_mean"]
    assert (after - truth).abs().max() < 1e-6 < (before - truth).abs().max()


def test_one_average_may_be_named_by_its_name_alone():
    model = net()
    averager, other = trained(model), Averager(model, KINDS)
    other.load_state_dict(averager.state_dict())
    averager.refresh_batchnorm(BATCHES, "uniform")
    other.refresh_batchnorm(BATCHES, ["uniform"])
    for name in averager.names:
        assert_same_bits(averager.tensors(name), other.tensors(name))
