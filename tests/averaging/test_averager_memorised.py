"""Averages and the model in one region in which torch memorises weights by their tensors.

Each forward pass must see the weights that the model holds then, and training must not notice.
"""

from contextlib import ExitStack, contextmanager, nullcontext

import pytest
import torch
from support.small_networks import assert_same_bits, batch, snapshot
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from polyak import EMA, Averager, Uniform, refresh_batchnorm

KINDS = (EMA(0.9, warmup=None, name="slow"), EMA(0.5, warmup=None, name="fast"), Uniform())


def half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )


def shift(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


def trained(model: nn.Module) -> Averager:
    averager = Averager(model, KINDS)
    for _ in range(2):
        shift(model)
        averager.step()
    shift(model)
    return averager


def alone(model: nn.Module, x: Tensor) -> Tensor:
    """What a model answers in a region of its own."""
    with torch.no_grad(), half():
        return model(x)


@contextmanager
def accelerated(model: nn.Module):
    """As Accelerate prepares a model: its forward pass has an autocast region made before."""
    own = model.forward
    model.forward = half()(own)
    try:
        yield
    finally:
        model.forward = own


@pytest.mark.parametrize("prepared", [False, True], ids=["plain", "accelerated"])
@pytest.mark.parametrize("order", ["st", "ts", "sts", "tst", "sabct", "asbsc"])
def test_each_forward_pass_in_one_region_sees_its_own_weights(order, prepared):
    """C18: s is the model, t and a an average, b and c others, in this order."""
    model = net().eval()
    averager = trained(model)
    names = dict(t="slow", a="slow", b="fast", c="uniform")
    x = batch(3)
    wanted = {k: alone(averager.module(name), x) for k, name in names.items()}
    wanted["s"] = alone(model, x)
    with accelerated(model) if prepared else nullcontext(), half():
        for who in order:
            if who == "s":
                got = model(x)
            else:
                with torch.no_grad(), averager.applied(names[who]) as teacher:
                    got = teacher(x)
            assert torch.equal(got, wanted[who]), who


def test_blocks_that_nest_or_overlap_in_one_region_do_too():
    model = net().eval()
    averager = trained(model)
    x = batch(3)
    own = alone(model, x)
    slow, fast = (alone(averager.module(name), x) for name in ("slow", "fast"))
    with half(), torch.no_grad():
        assert torch.equal(model(x), own)
        with averager.applied("slow"):
            assert torch.equal(model(x), slow)
            with averager.applied("fast"):
                assert torch.equal(model(x), fast)
            assert torch.equal(model(x), slow)
        assert torch.equal(model(x), own)
        first, second = ExitStack(), ExitStack()
        first.enter_context(averager.applied("slow"))
        second.enter_context(averager.applied("fast"))
        assert torch.equal(model(x), fast)
        first.close()
        assert torch.equal(model(x), fast)
        second.close()
        assert torch.equal(model(x), own)


def test_two_averagers_in_one_region_do_too():
    model = net().eval()
    one, other = trained(model), Averager(model, [EMA(0.3, name="other")])
    other.step()
    shift(model)
    x = batch(3)
    with half(), torch.no_grad():
        for averager, name in ((one, "slow"), (other, "other"), (one, "slow")):
            wanted = averager.module(name)
            with averager.applied(name) as teacher:
                got = teacher(x)
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                assert torch.equal(got, wanted(x)), name


@pytest.mark.parametrize("first", ["teacher", "student", "refresh", "own refresh"])
def test_training_in_one_region_is_unchanged_by_one_bit(first):
    """C18: a teacher before the student, whose casts would have no gradients, or after it."""
    model, twin = net(), net()
    averager = trained(model)
    for _ in range(3):
        shift(twin)
    twin.load_state_dict(model.state_dict())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, twin)]

    def beside(x: Tensor) -> None:
        if first == "refresh":
            averager.refresh_batchnorm([x, x + 1])
        elif first == "own refresh":
            statistics = snapshot(model[1])
            refresh_batchnorm(model, [x, x + 1])
            model[1].load_state_dict(statistics)
        else:
            with torch.no_grad(), averager.applied("slow") as teacher:
                teacher(x)

    for seed in range(4):
        x = batch(seed)
        for one, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            with half():
                if one is model and first != "student":
                    beside(x)
                torch.manual_seed(seed)
                loss = one(x).float().square().mean()
                if one is model and first == "student":
                    beside(x)
            loss.backward()
            optimizer.step()
        averager.step()
        assert model[0].weight.grad.abs().sum() > 0
        assert_same_bits(snapshot(model), snapshot(twin))


def test_refreshed_statistics_in_a_region_are_those_of_each_averages_weights():
    model = net()
    averager = trained(model)
    batches = [batch(0, 64), batch(1, 64)]
    with half():
        model(batches[0])
        averager.refresh_batchnorm(batches)
    got = {name: averager.tensors(name) for name in averager.names}
    for name in averager.names:
        copy = averager.module(name)
        # A cache that does not outlive a forward pass cannot be wrong.
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            refresh_batchnorm(copy, batches)
        for key in ("1.running_mean", "1.running_var"):
            torch.testing.assert_close(got[name][key], copy.state_dict()[key], msg=f"{name} {key}")


def test_a_copy_made_in_a_region_is_that_average():
    model = net().eval()
    averager = trained(model)
    x = batch(3)
    with half(), torch.no_grad():
        model(x)
        assert torch.equal(averager.module("slow")(x), alone(averager.module("slow"), x))
        assert torch.equal(model(x), alone(model, x))


@pytest.mark.parametrize("order", ["st", "ts", "sts", "tst"])
def test_parametrized_weights_that_are_cached_are_those_in_the_model(order):
    """C18: `parametrize.cached()` keeps weights by their module."""
    torch.manual_seed(0)
    model = weight_norm(nn.Linear(3, 2))
    averager = trained(model)
    x = batch(3)
    with torch.no_grad():
        own, average = model(x), averager.module("slow")(x)
    assert not torch.equal(own, average)
    with parametrize.cached():
        for who in order:
            with averager.applied("slow") if who == "t" else nullcontext():
                got = model(x)
            assert torch.equal(got, average if who == "t" else own), who


def test_a_cached_region_goes_on_with_what_it_had():
    """One node of the graph before and after, so gradients add up as without the block."""
    model = weight_norm(nn.Linear(3, 2))
    other = weight_norm(nn.Linear(3, 2))
    averager = trained(model)
    with parametrize.cached():
        before, beside = model.weight, other.weight
        with averager.applied("slow"):
            assert model.weight is not before
            assert other.weight is beside
        assert model.weight is before
        averager.refresh_batchnorm([batch(0)])
        assert model.weight is before
    assert not parametrize._cache


def test_a_cached_region_that_ended_inside_leaves_nothing_behind():
    model = weight_norm(nn.Linear(3, 2))
    averager = trained(model)
    region = ExitStack()
    region.enter_context(parametrize.cached())
    _ = model.weight
    with averager.applied("slow"):
        region.close()
    assert not parametrize._cache
    with parametrize.cached():
        shift(model)
        assert torch.equal(model.weight, torch._weight_norm(*reversed_pair(model)))


def reversed_pair(model: nn.Module) -> tuple[Tensor, Tensor, int]:
    """Direction and length of a weight under weight_norm."""
    originals = model.parametrizations.weight
    return originals.original1, originals.original0, 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_whatever_an_averager_does_is_the_same_inside_a_region(dtype):
    """On a CPU an autocast region refuses to join numbers of half precision."""
    shown = []
    for region in (half(), nullcontext()):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)
        model[0].requires_grad_(False)
        with region:
            averager = Averager(model, [EMA(0.5, warmup=None, name="a"), 0.9])
            with torch.no_grad():
                model[2].weight.add_(1)
            averager.step()
            state = averager.state_dict()
            averager.load_state_dict(state)
            model.load_state_dict(model.state_dict())
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            averager.attach(optimizer)
            optimizer.step()
            averager.track()
            averager.standstill("a")
            with averager.applied("a"):
                pass
            shown += [averager.tensors("a"), dict(averager.module("a").state_dict())]
    assert_same_bits(shown[0], shown[2])
    assert_same_bits(shown[1], shown[3])
