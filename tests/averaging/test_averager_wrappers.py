"""Models inside the wrappers of torch.compile and data parallelism."""

import pytest
import torch
from support.small_networks import assert_same_bits, batch, net, snapshot, train_step
from torch import nn

from polyak import EMA, Averager


def two(make):
    """The same model twice: bare, and with another round."""
    torch.manual_seed(0)
    bare = net()
    torch.manual_seed(0)
    inner = net()
    return bare, inner, make(inner)


def check_wrapped(make) -> None:
    bare, inner, wrapped = two(make)
    averagers = []
    for model in (bare, wrapped):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        averager = Averager(model, [0.9, 0.5], every=2)
        averager.attach(optimizer)
        for seed in range(4):
            train_step(model, optimizer, seed)
        averagers.append(averager)
    plain, through = averagers
    for name in plain.names:
        assert_same_bits(through.tensors(name), plain.tensors(name))
    own, live = snapshot(inner), wrapped.eval()(batch(9))
    wrapped.train()
    for name in plain.names:
        expected = plain.module(name)(batch(9))
        assert type(through.module(name)) is nn.Sequential
        with through.applied(name), torch.no_grad():
            # Code that was compiled before the block must see the average, not a frozen copy.
            torch.testing.assert_close(wrapped(batch(9)), expected, rtol=0, atol=0)
    assert_same_bits(snapshot(inner), own)
    torch.testing.assert_close(wrapped.eval()(batch(9)), live, rtol=0, atol=0)


def test_a_compiled_model_is_averaged_and_applied_as_the_bare_one():
    """A user's trouble (senpai #2899, #3303): `_orig_mod.` freezes averages in silence."""
    check_wrapped(lambda model: torch.compile(model, backend="eager"))


def test_a_model_compiled_in_place_is_too():
    def compiled(model: nn.Module) -> nn.Module:
        model.compile(backend="eager")
        return model

    check_wrapped(compiled)


def test_data_parallel_models_are_too():
    check_wrapped(nn.DataParallel)


@pytest.fixture
def one_process(tmp_path):
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_distributed_models_are_too(one_process):
    check_wrapped(nn.parallel.DistributedDataParallel)


def test_a_parametrized_model_is_averaged_in_its_own_parameters():
    """The computed weight is neither stored nor averaged: it follows from its parts."""
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    averager = Averager(model, [EMA(0.5, warmup=None)])
    start = {key: x.clone() for key, x in model.state_dict().items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    averager.update()
    x = torch.randn(4, 3)
    twin = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    twin.load_state_dict({key: value + 0.5 for key, value in start.items()})
    with averager.applied("ema_0.5"):
        torch.testing.assert_close(model(x), twin(x))
    assert averager.tensors("ema_0.5").keys() == model.state_dict().keys()
    torch.testing.assert_close(averager.module("ema_0.5")(x), twin(x))


def test_of_a_frozen_model_with_small_adapters_only_the_adapters_are_stored():
    """As LoRA trains: two thin matrices beside a large frozen one."""

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(64, 64).requires_grad_(False)
            self.down = nn.Linear(64, 2, bias=False)
            self.up = nn.Linear(2, 64, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + self.up(self.down(x))

    model = Adapted()
    averager = Averager(model, [0.9, 0.99])
    stored = averager.state_dict()["tensors"]["ema_0.9"]
    assert set(stored) == {"down.weight", "up.weight"}
    assert averager.tensors("ema_0.9").keys() == model.state_dict().keys()
    assert torch.equal(averager.tensors("ema_0.9")["base.weight"], model.base.weight)
