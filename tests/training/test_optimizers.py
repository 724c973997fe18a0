"""Each optimiser against its update written out, and against torch's own over all weights."""

import math

import pytest
import torch
from torch import nn

from polyak.errors import ConfigError
from polyak.models import ModelConfig, build
from polyak.training.optim import OptimConfig, build_optimizer, set_learning_rate
from polyak.training.run_state import optimizer_tensors, restore_optimizer
from polyak.training.steps import build_step

CPU = torch.device("cpu")
ADAMW = OptimConfig(name="adamw", lr=1e-2, betas=(0.8, 0.95), weight_decay=0.1)
MUON = OptimConfig(name="muon", lr=1e-2, weight_decay=0.1, decayed="matrices")
SGD = OptimConfig(lr=1e-2)


def network() -> nn.Module:
    config = ModelConfig(name="vit", width=32, depth=1)
    return build(config, classes=3, channels=1, image_size=8, generator_seed=0)


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def test_adamw_is_its_update_written_out_with_decoupled_decay():
    model = nn.Linear(3, 2).double()
    optimizer = build_optimizer(model, ADAMW)
    expected = [p.detach().clone() for p in model.parameters()]
    first, second = ([torch.zeros_like(x) for x in expected] for _ in range(2))
    for step in range(1, 6):
        rate = 1e-2 / step
        gradients(model, step)
        for i, p in enumerate(model.parameters()):
            first[i] = 0.8 * first[i] + 0.2 * p.grad
            second[i] = 0.95 * second[i] + 0.05 * p.grad**2
            mean, square = first[i] / (1 - 0.8**step), second[i] / (1 - 0.95**step)
            expected[i] = (1 - rate * 0.1) * expected[i] - rate * mean / (square.sqrt() + 1e-8)
        set_learning_rate(optimizer, rate)
        optimizer.step()
    for p, x in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p, x, rtol=1e-10)


def test_muon_moves_matrices_between_the_ends_and_adamw_all_else():
    model, twin = network(), network()
    optimizer = build_optimizer(model, MUON)
    names = dict(twin.named_parameters())
    inner = [n for n, p in names.items() if p.ndim == 2 and not n.startswith("head.")]
    assert len(inner) == 4
    muon = torch.optim.Muon(
        [names[n] for n in inner],
        lr=1e-2,
        momentum=0.9,
        weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
    )
    ends = [p for n, p in names.items() if n not in inner and p.ndim >= 2]
    vectors = [p for p in names.values() if p.ndim < 2]
    adamw = torch.optim.AdamW(
        [{"params": ends}, {"params": vectors, "weight_decay": 0.0}], lr=1e-2, weight_decay=0.1
    )
    for step in range(4):
        gradients(model, step)
        gradients(twin, step)
        for each in (optimizer, muon, adamw):
            set_learning_rate(each, 1e-2 / (step + 1))
            each.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, names[name]), name


def test_muon_refuses_a_network_without_matrices_between_its_ends():
    config = ModelConfig(name="resnet8", width=4)
    model = build(config, classes=3, channels=1, image_size=8, generator_seed=0)
    with pytest.raises(ConfigError, match=r"muon.*Take sgd or adamw"):
        build_optimizer(model, MUON)


@pytest.mark.parametrize("config", [SGD, ADAMW, MUON], ids=lambda c: c.name)
def test_an_optimiser_restored_from_its_tensors_goes_on_to_the_bit(config):
    model = network()
    optimizer = build_optimizer(model, config)
    assert optimizer_tensors(optimizer) == {}
    for step in range(3):
        gradients(model, step)
        optimizer.step()
    twin = network()
    twin.load_state_dict(model.state_dict())
    other = build_optimizer(twin, config)
    held = {key: x.clone() for key, x in optimizer_tensors(optimizer).items()}
    restore_optimizer(other, held)
    for step in range(3, 6):
        for each, its in ((model, optimizer), (twin, other)):
            gradients(each, step)
            its.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_matrices_decay_where_that_is_asked_for():
    model = nn.Linear(3, 2)
    for name in ("sgd", "adamw"):
        config = OptimConfig(name=name, weight_decay=0.5, decayed="matrices")
        decays = {
            id(p): group["weight_decay"]
            for group in build_optimizer(model, config).param_groups
            for p in group["params"]
        }
        assert decays == {id(model.weight): 0.5, id(model.bias): 0.0}


@pytest.mark.parametrize("clip", [0.1, 1e6])
def test_a_gradient_longer_than_the_limit_is_scaled_down_to_it(clip):
    model = network()
    optimizer = build_optimizer(model, OptimConfig(lr=0.0 + 1e-12))
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    nn.functional.cross_entropy(model(x), labels).backward()
    whole = [p.grad.clone() for p in model.parameters()]
    norm = math.sqrt(sum(g.double().square().sum().item() for g in whole))
    build_step("eager", model, optimizer, device=CPU, precision="float32", clip=clip)(x, labels)
    for p, g in zip(model.parameters(), whole, strict=True):
        assert torch.allclose(p.grad, g * min(1.0, clip / norm), rtol=1e-4, atol=1e-7)
