"""First weights: their distribution, and torch itself as the oracle of the linear layers."""

import math

import pytest
import torch
from torch import nn

from polyak.models.initialisation import initialise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("c_in", "c_out", "kernel"), [(64, 128, 3), (128, 64, 3), (256, 128, 1)])
def test_convolutions_have_the_variance_of_he_fan_out(c_in: int, c_out: int, kernel: int) -> None:
    conv = nn.Conv2d(c_in, c_out, kernel)
    initialise(conv, generator())
    expected = math.sqrt(2 / (kernel**2 * c_out))
    # The relative error of a standard deviation over n draws is 1/√(2n); five of them.
    tolerance = 5 / math.sqrt(2 * conv.weight.numel())
    assert conv.weight.std().item() == pytest.approx(expected, rel=tolerance)
    assert abs(conv.weight.mean().item()) < 5 * expected / math.sqrt(conv.weight.numel())
    assert not conv.bias.any()


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_have_the_weights_that_torch_itself_would_draw(bias: bool) -> None:
    ours = nn.Linear(12, 7, bias=bias)
    initialise(ours, generator(3))
    torch.manual_seed(3)
    theirs = nn.Linear(12, 7, bias=bias)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_batchnorm_starts_afresh() -> None:
    norm = nn.BatchNorm2d(4)
    norm(torch.randn(8, 4, 3, 3) * 7)
    nn.init.normal_(norm.weight)
    initialise(norm, generator())
    fresh = nn.BatchNorm2d(4).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in norm.state_dict().items())


def test_a_module_without_a_rule_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.RMSNorm(2))
    with pytest.raises(TypeError, match=r"module '1' is RMSNorm; expected Conv2d"):
        initialise(model, generator())
