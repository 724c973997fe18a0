"""The wide residual network against its published size and its block written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polyak.models.wide_resnet import WideBlock, WideResNet, wrn28_10


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameter_count_is_the_known_one() -> None:
    with torch.device("meta"):
        assert parameters(wrn28_10(classes=100, channels=3)) == 36_536_884


def test_conv_bias_adds_one_number_for_each_output_channel() -> None:
    with torch.device("meta"):
        without = wrn28_10(classes=100, channels=3)
        with_bias = wrn28_10(classes=100, channels=3, conv_bias=True)
    outputs = sum(m.out_channels for m in without.modules() if isinstance(m, nn.Conv2d))
    assert parameters(with_bias) - parameters(without) == outputs


def test_depth_is_the_number_of_convolutions() -> None:
    with torch.device("meta"):
        model = wrn28_10(classes=100, channels=3)
    kernels = [m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(kernels) == 28
    assert kernels.count((1, 1)) == 3


@pytest.mark.parametrize("conv_bias", [False, True])
@pytest.mark.parametrize(("c_out", "stride"), [(4, 1), (6, 1), (4, 2), (8, 2)])
def test_a_block_equals_its_formula_written_out(c_out: int, stride: int, conv_bias: bool) -> None:
    block = WideBlock(4, c_out, stride=stride, conv_bias=conv_bias).double()
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)

    def activated(y: torch.Tensor) -> torch.Tensor:
        mean = y.mean(dim=(0, 2, 3), keepdim=True)
        variance = (y - mean).square().mean(dim=(0, 2, 3), keepdim=True)
        return ((y - mean) / (variance + 1e-5).sqrt()).clamp(min=0)

    a = activated(x)
    y = F.conv2d(a, block.conv1.weight, block.conv1.bias, stride, padding=1)
    y = F.conv2d(activated(y), block.conv2.weight, block.conv2.bias, 1, padding=1)
    shortcut = x
    if c_out != 4 or stride != 1:
        shortcut = F.conv2d(a, block.projection.weight, block.projection.bias, stride)
    torch.testing.assert_close(block(x.clone()), y + shortcut)


def test_a_block_leaves_its_input_as_it_was() -> None:
    """The activations work in place, and the shortcut still needs the input."""
    x = torch.randn(2, 4, 6, 6)
    before = x.clone()
    WideBlock(4, 4)(x)
    assert torch.equal(x, before)


def test_conv_biases_change_no_logit_with_batch_statistics() -> None:
    model = WideResNet(10, 1, classes=5, channels=3, conv_bias=True).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    before = model(x)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias)
    torch.testing.assert_close(model(x), before)


def test_final_norm_momentum_reaches_the_last_batchnorm_only() -> None:
    model = WideResNet(10, 1, classes=5, channels=3, final_norm_momentum=0.9)
    momenta = {n: m.momentum for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta.pop("norm") == 0.9
    assert set(momenta.values()) == {0.1}
