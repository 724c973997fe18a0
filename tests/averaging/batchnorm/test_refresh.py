"""BatchNorm statistics against those of all the data put together.

Shape suffixes: n samples, c channels, l length, h height, w width.
"""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import assert_same_bits, batch, net, raising, snapshot
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from polyak import Averager
from polyak.averaging.batchnorm.refresh import refresh_batchnorm
from polyak.errors import ConfigError, DataError


def two_norms() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    )


def images(seed: int, size: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.randn(size, 2, 5, 5, generator=draws)


def pooled(model: nn.Module, batches: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and unbiased variance of all that each layer sees, from its inputs put together."""
    seen: dict[str, list[Tensor]] = {}
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0].double())
        )
        for name, layer in norms.items()
    ]
    own = snapshot(model)
    with torch.no_grad():
        for x in batches:
            model(x)  # in training mode, so each layer normalises by the batch
    for hook in hooks:
        hook.remove()
    model.load_state_dict(own)
    whole = {name: torch.cat(inputs).transpose(0, 1).flatten(1) for name, inputs in seen.items()}
    return {name: (x.mean(1), x.var(1)) for name, x in whole.items()}


@given(sizes=st.lists(st.integers(2, 9), min_size=1, max_size=5))
def test_not_pooled_they_are_the_plain_means_of_the_batches(sizes):
    torch.manual_seed(0)
    model, twin = two_norms(), two_norms()
    twin.load_state_dict(model.state_dict())
    batches = [images(seed, size) for seed, size in enumerate(sizes)]
    alone = [pooled(model, [x]) for x in batches]
    refresh_batchnorm(model, batches, pooled=False)
    update_bn(batches, twin)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            for i, buffer in enumerate((layer.running_mean, layer.running_var)):
                mean = sum(by_name[name][i] for by_name in alone) / len(batches)
                assert torch.allclose(buffer.double(), mean, rtol=1e-5, atol=1e-6)
            torchs = twin.get_submodule(name)
            assert torch.allclose(layer.running_var, torchs.running_var, rtol=1e-4, atol=1e-6)


@given(sizes=st.lists(st.integers(2, 9), min_size=1, max_size=5))
def test_statistics_are_those_of_all_the_data_together(sizes):
    torch.manual_seed(0)
    model = two_norms()
    batches = [images(seed, size) for seed, size in enumerate(sizes)]
    expected = pooled(model, batches)
    refresh_batchnorm(model, batches)
    for name, (mean_c, var_c) in expected.items():
        layer = model.get_submodule(name)
        torch.testing.assert_close(layer.running_mean.double(), mean_c, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), var_c, rtol=1e-5, atol=1e-5)


@given(cuts=st.lists(st.integers(1, 39), max_size=6, unique=True))
def test_how_the_data_is_cut_does_not_matter_to_a_layer_above_no_other(cuts):
    """C8: torch gives a short last batch the weight of a whole one, and averages variances."""
    x_nc = batch(0, 40)
    edges = sorted({0, 40, *cuts})
    parts = [x_nc[a:b] for a, b in pairwise(edges)]
    model = nn.BatchNorm1d(3)
    refresh_batchnorm(model, parts)
    torch.testing.assert_close(model.running_mean, x_nc.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.running_var, x_nc.var(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(4, 1), (1, 4), (1, 1), (1,) * 6, (1, 3, 1, 2)])
def test_a_batch_of_one_sample_counts_as_one(sizes):
    x_nc = 3 + batch(0, sum(sizes))
    layer = nn.BatchNorm1d(3)
    refresh_batchnorm(layer, x_nc.split(sizes))
    torch.testing.assert_close(layer.running_mean, x_nc.mean(0))
    torch.testing.assert_close(layer.running_var, x_nc.var(0))


def test_a_batch_of_one_is_normalised_by_what_came_before_it():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    x_nc = batch(0, 5)
    refresh_batchnorm(model, x_nc.split((4, 1)))
    first, last = x_nc[:4], x_nc[4:]
    above = nn.functional.batch_norm(first, None, None, training=True)
    below = (last - first.mean(0)) / (first.var(0) + 1e-5).sqrt()
    seen = torch.cat([above, below])
    torch.testing.assert_close(model[1].running_mean, seen.mean(0))
    torch.testing.assert_close(model[1].running_var, seen.var(0))
    assert all(layer.training for layer in model)


def test_not_pooled_a_batch_of_one_has_no_variance_and_is_left_out():
    ours, without = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    x_nc = batch(0, 9)
    refresh_batchnorm(ours, x_nc.split((4, 4, 1)), pooled=False)
    refresh_batchnorm(without, x_nc[:8].split((4, 4)), pooled=False)
    assert_same_bits(snapshot(ours), snapshot(without))


@pytest.mark.parametrize(("sizes", "pooled"), [((1,), True), ((1, 1), False)])
def test_values_without_a_variance_are_refused_and_change_nothing(sizes, pooled):
    model = nn.Sequential(nn.BatchNorm1d(3))
    own = snapshot(model)
    with pytest.raises(DataError, match=rf"'0' saw {len(sizes)} values of each channel"):
        refresh_batchnorm(model, batch(0, len(sizes)).split(sizes), pooled=pooled)
    assert_same_bits(snapshot(model), own)


def test_torch_agrees_on_one_whole_batch():
    ours, theirs = two_norms(), two_norms()
    theirs.load_state_dict(ours.state_dict())
    refresh_batchnorm(ours, [images(0, 12)])
    update_bn([images(0, 12)], theirs)
    for name, x in theirs.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(ours.state_dict()[name], x)


def test_torch_agrees_on_the_means_of_equal_batches_only():
    ours, theirs = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    equal = [batch(seed, 8) for seed in range(4)]
    refresh_batchnorm(ours, equal)
    update_bn(equal, theirs)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    assert not torch.allclose(ours.running_var, theirs.running_var, rtol=1e-3)

    unequal = [batch(0, 30), 5 + batch(1, 2)]
    refresh_batchnorm(ours, unequal)
    update_bn(unequal, theirs)
    assert not torch.allclose(ours.running_mean, theirs.running_mean, rtol=0.5)
    torch.testing.assert_close(ours.running_mean, torch.cat(unequal).mean(0))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(3), (7, 3)),
        (nn.BatchNorm1d(3), (7, 3, 5)),
        (nn.BatchNorm2d(3), (7, 3, 4, 5)),
        (nn.BatchNorm3d(3), (7, 3, 2, 2, 2)),
        (nn.BatchNorm1d(3, affine=False), (7, 3)),
        (nn.BatchNorm1d(3, momentum=None), (7, 3)),
        (nn.BatchNorm1d(3, momentum=0.0), (7, 3)),
        (nn.BatchNorm1d(3, dtype=torch.float64), (7, 3)),
    ],
    ids=str,
)
def test_every_form_of_the_layer_is_known(layer, shape):
    x = torch.randn(shape, dtype=layer.running_mean.dtype)
    refresh_batchnorm(layer, [x[:4], x[4:]])
    rows = x.transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean, rows.mean(1))
    torch.testing.assert_close(layer.running_var, rows.var(1))


def test_pooling_is_exact_far_from_zero():
    """Differences of sums of squares would lose every digit here."""
    layer = nn.BatchNorm1d(1, dtype=torch.float64)
    x = 1e8 + torch.randn(4096, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    refresh_batchnorm(layer, x.split(64))
    torch.testing.assert_close(layer.running_var, x.var(0), rtol=1e-6, atol=0.0)


def test_a_layer_used_twice_pools_both_uses():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.norm(10 + 2 * x)

    model, x = Twice(), batch(0)
    refresh_batchnorm(model, [x])
    both = torch.cat([x, 10 + 2 * x])
    torch.testing.assert_close(model.norm.running_mean, both.mean(0))
    torch.testing.assert_close(model.norm.running_var, both.var(0))


def test_a_layer_that_no_batch_reaches_keeps_its_statistics():
    model = nn.ModuleDict({"used": nn.BatchNorm1d(3), "unused": nn.BatchNorm1d(3)})
    model["unused"].running_mean.fill_(3)
    refresh_batchnorm(model, [batch(0)], forward=lambda m, x: m["used"](x))
    assert (model["unused"].running_mean == 3).all()
    torch.testing.assert_close(model["used"].running_mean, batch(0).mean(0))


def test_layers_without_statistics_are_left_alone():
    """C14: Lightning's pass fails on them."""
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3))
    model.eval()
    refresh_batchnorm(model, [batch(0)])
    assert model[0].running_mean is None
    torch.testing.assert_close(model[1].running_mean, torch.zeros(3), atol=1e-6, rtol=0)


def test_a_model_without_batchnorm_is_untouched_and_unread():
    model = nn.Linear(3, 2)
    own = snapshot(model)

    def never() -> Iterator[Tensor]:
        raise AssertionError("no batch is needed")
        yield

    refresh_batchnorm(model, never())
    assert_same_bits(snapshot(model), own)


def test_only_the_statistics_change():
    model = two_norms()
    model.train()
    model[1].eval()
    model[4].momentum = None
    own = snapshot(model)
    refresh_batchnorm(model, [images(0, 6)])
    changed = {n for n, x in snapshot(model).items() if not torch.equal(x, own[n])}
    assert changed == {f"{i}.running_{what}" for i in (1, 4) for what in ("mean", "var")}
    assert [module.training for module in model] == [True, False, True, True, True]
    assert (model[1].momentum, model[4].momentum) == (0.1, None)
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_what_the_statistics_were_does_not_matter():
    fresh, poisoned = net(), net()
    poisoned.load_state_dict(fresh.state_dict())
    poisoned[1].running_mean.fill_(torch.nan)
    poisoned[1].running_var.fill_(torch.inf)
    for model in (fresh, poisoned):
        refresh_batchnorm(model, [batch(0), batch(1)])
    assert_same_bits(snapshot(poisoned), snapshot(fresh))


def test_a_second_pass_changes_nothing():
    model = two_norms()
    refresh_batchnorm(model, [images(0, 6), images(1, 4)])
    once = snapshot(model)
    refresh_batchnorm(model, [images(0, 6), images(1, 4)])
    assert_same_bits(snapshot(model), once)


def test_dropout_is_off():
    """C8: torch's pass leaves it on."""
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3))
    refresh_batchnorm(model.train(), [batch(0)])
    torch.testing.assert_close(model[1].running_mean, batch(0).mean(0))


def failing_batches() -> Iterator[Tensor]:
    yield images(0, 6)
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("batches", "forward"),
    [
        (failing_batches, None),
        (lambda: [images(0, 6)], raising),
        (lambda: [images(0, 6), images(0, 6)[:, :1]], None),
    ],
    ids=["loader", "forward", "shape"],
)
def test_everything_is_as_before_when_the_pass_raises(batches, forward):
    """C8: torch leaves momentum None, the statistics reset and the model in training mode."""
    model = two_norms()
    model.eval()
    model[1].train()
    model[1].momentum = 0.25
    model[4].momentum = None
    own, flags = snapshot(model), [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        refresh_batchnorm(model, batches(), forward=forward)
    assert_same_bits(snapshot(model), own)
    assert [module.training for module in model.modules()] == flags
    assert (model[1].momentum, model[4].momentum) == (0.25, None)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_no_graph_is_kept():
    outputs = []
    refresh_batchnorm(net(), [batch(0)], forward=lambda model, x: outputs.append(model(x)))
    assert not outputs[0].requires_grad


def test_a_layer_may_be_called_by_keyword():
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(input=x)

    model = Keyword()
    refresh_batchnorm(model, [batch(0)])
    torch.testing.assert_close(model.norm.running_var, batch(0).var(0))


def test_a_loader_that_shuffles_leaves_torchs_generator_alone():
    data = torch.utils.data.TensorDataset(batch(0, 20))
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True)
    model = net()
    state = torch.get_rng_state()
    refresh_batchnorm(model, loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_models_are_refreshed_in_their_dtype():
    model = net().to(torch.bfloat16)
    refresh_batchnorm(model, [batch(0, 64).to(torch.bfloat16)])
    assert model[1].running_mean.dtype == torch.bfloat16
    seen = model[0](batch(0, 64).to(torch.bfloat16)).float()
    torch.testing.assert_close(model[1].running_mean.float(), seen.mean(0), rtol=0.02, atol=0.02)


INSTANCES = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def by_sample(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the samples of each one's own mean and unbiased variance, channel by channel."""
    flat_ncl = x.double().flatten(2)
    return flat_ncl.mean(2).mean(0), flat_ncl.var(2).mean(0)


@pytest.mark.parametrize("dims", INSTANCES)
@pytest.mark.parametrize("momentum", [0.1, None, 1.0])
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("sizes", [(4,), (3, 1, 2), (1, 1)])
def test_instance_norm_has_the_means_over_samples_however_they_are_cut(
    dims, momentum, pooled, sizes
):
    layer = INSTANCES[dims](3, track_running_stats=True, momentum=momentum)
    draws = torch.Generator().manual_seed(0)
    shape = (sum(sizes), 3, *range(4, 4 + dims))
    x = 7 + torch.randn(shape, generator=draws) * torch.rand(shape[:1] + (1,) * (dims + 1))
    refresh_batchnorm(layer, x.split(sizes), pooled=pooled)
    mean_c, var_c = by_sample(x)
    torch.testing.assert_close(layer.running_mean.double(), mean_c, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), var_c, rtol=1e-5, atol=1e-6)
    assert layer.momentum == momentum
    assert layer.training


def test_they_are_what_torchs_own_running_statistics_of_one_batch_become():
    layer, twin = (nn.InstanceNorm2d(2, track_running_stats=True, momentum=1.0) for _ in range(2))
    x = images(0, 6)
    twin(x)
    refresh_batchnorm(layer, [x])
    torch.testing.assert_close(layer.running_mean, twin.running_mean)
    torch.testing.assert_close(layer.running_var, twin.running_var)


def test_a_sample_without_a_batch_is_one_instance():
    layer = nn.InstanceNorm2d(2, track_running_stats=True)
    x = images(0, 3)
    refresh_batchnorm(layer, list(x))
    mean_c, var_c = by_sample(x)
    torch.testing.assert_close(layer.running_mean.double(), mean_c, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), var_c, rtol=1e-5, atol=1e-6)


def test_both_norms_in_one_model_and_an_average_of_it():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, track_running_stats=True), nn.BatchNorm2d(3)
    )
    averager = Averager(model, [0.9])
    before = snapshot(model)
    x = images(1, 5)
    averager.refresh_batchnorm([x[:2], x[2:]])
    shown = averager.tensors("ema_0.9")
    with torch.no_grad():
        seen = model[0](x)
        mean_c, var_c = by_sample(seen)
        above = nn.functional.instance_norm(seen)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(shown["1.running_mean"].double(), mean_c, **close)
    torch.testing.assert_close(shown["1.running_var"].double(), var_c, **close)
    torch.testing.assert_close(shown["2.running_mean"], above.mean((0, 2, 3)), **close)
    torch.testing.assert_close(
        shown["2.running_var"], above.transpose(0, 1).flatten(1).var(1), **close
    )
    assert_same_bits(snapshot(model), before)


def test_instance_norm_without_statistics_is_left_alone():
    model = nn.Sequential(nn.InstanceNorm1d(3), nn.Conv1d(3, 2, 1))
    before = snapshot(model)
    refresh_batchnorm(model, [torch.randn(2, 3, 4)])
    assert_same_bits(snapshot(model), before)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_statistics_of_a_scripted_layer_are_refused_by_name_and_not_passed_over():
    model = nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.BatchNorm1d(3)))
    with pytest.raises(ConfigError, match=r"^1 is in TorchScript, whose statistics"):
        refresh_batchnorm(model, [batch(0)])
    assert torch.equal(model[1].running_mean, torch.zeros(3))
