"""The residual networks against their published sizes and a block written out by hand."""

import pytest
import torch
from torch import Tensor, nn

from polyak.models.resnet import BasicBlock, group_norm, resnet8, resnet18, resnet20, resnet34


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def slow_convolution(x_bchw: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Zero-padded cross-correlation, one output pixel at a time."""
    reach = weight.shape[-1] // 2
    padded = torch.zeros(
        *x_bchw.shape[:2],
        x_bchw.shape[2] + 2 * reach,
        x_bchw.shape[3] + 2 * reach,
        dtype=x_bchw.dtype,
    )
    padded[:, :, reach : reach + x_bchw.shape[2], reach : reach + x_bchw.shape[3]] = x_bchw
    rows = []
    for top in range(0, x_bchw.shape[2], stride):
        pixels = []
        for left in range(0, x_bchw.shape[3], stride):
            patch = padded[:, :, top : top + weight.shape[-1], left : left + weight.shape[-1]]
            pixels.append((patch[:, None] * weight[None]).sum(dim=(2, 3, 4)))
        rows.append(torch.stack(pixels, dim=-1))
    return torch.stack(rows, dim=-2)


def slow_norm(x_bchw: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch normalisation from its definition, channel by channel."""
    out = torch.empty_like(x_bchw)
    for c in range(x_bchw.shape[1]):
        channel = x_bchw[:, c]
        if norm.training:
            mean, variance = channel.mean(), (channel - channel.mean()).square().mean()
        else:
            mean, variance = norm.running_mean[c], norm.running_var[c]
        out[:, c] = (channel - mean) / (variance + norm.eps).sqrt() * norm.weight[c] + norm.bias[c]
    return out


def randomise(module: nn.Module) -> None:
    """Random affine parameters and statistics, so that no factor is one and no term zero."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(part.running_var, 0.5, 2.0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("c_out", "stride"), [(3, 1), (5, 1), (3, 2), (6, 2)])
def test_a_block_equals_its_formula_written_out(c_out: int, stride: int, training: bool) -> None:
    block = BasicBlock(3, c_out, stride=stride).double().train(training)
    randomise(block)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)

    y = slow_norm(slow_convolution(x, block.conv1.weight, stride), block.norm1).clamp(min=0)
    y = slow_norm(slow_convolution(y, block.conv2.weight, 1), block.norm2)
    shortcut = x
    if c_out != 3 or stride != 1:
        projection, norm = block.shortcut
        shortcut = slow_norm(slow_convolution(x, projection.weight, stride), norm)
    torch.testing.assert_close(block(x), (y + shortcut).clamp(min=0))


def test_the_shortcut_is_projected_only_where_the_shape_changes() -> None:
    model = resnet18(classes=10, channels=3)
    projected = [
        [not isinstance(block.shortcut, nn.Identity) for block in stage] for stage in model.stages
    ]
    assert projected == [[False, False], [True, False], [True, False], [True, False]]


@pytest.mark.parametrize(
    ("builder", "count"), [(resnet18, 11_220_132), (resnet34, 21_328_292)], ids=["18", "34"]
)
def test_parameter_counts_are_the_known_ones(builder, count: int) -> None:
    with torch.device("meta"):
        assert parameters(builder(classes=100, channels=3)) == count


@pytest.mark.parametrize(
    ("builder", "width", "count"),
    [
        (resnet18, 16, 701_466),
        (resnet18, 32, 2_797_610),
        (resnet18, 64, 11_173_962),
        (resnet34, 16, 1_334_618),
    ],
    ids=["18 of 16", "18 of 32", "18 of 64", "34 of 16"],
)
def test_parameter_counts_of_other_widths_are_the_known_ones(builder, width, count) -> None:
    with torch.device("meta"):
        assert parameters(builder(classes=10, channels=3, width=width)) == count


@pytest.mark.parametrize(("builder", "blocks"), [(resnet8, 1), (resnet20, 3)], ids=["8", "20"])
@pytest.mark.parametrize("width", [4, 16])
def test_small_nets_have_the_parameters_of_their_formula(builder, blocks: int, width: int) -> None:
    def block(c_in: int, c_out: int) -> int:
        projection = 0 if c_in == c_out else c_in * c_out + 2 * c_out
        return 9 * c_in * c_out + 9 * c_out**2 + 4 * c_out + projection

    expected = 9 * 3 * width + 2 * width + 4 * width * 7 + 7
    for c_in, c_out in ((width, width), (width, 2 * width), (2 * width, 4 * width)):
        expected += block(c_in, c_out) + (blocks - 1) * block(c_out, c_out)
    assert parameters(builder(classes=7, channels=3, width=width)) == expected


def test_the_first_stage_sees_the_whole_image() -> None:
    """No stride and no pooling before it, unlike the networks for 224 pixels."""
    with torch.device("meta"):
        model = resnet34(classes=10, channels=3)
        x = torch.zeros(1, 3, 32, 32)
        sides = []
        for stage in (model.stem, *model.stages):
            x = stage(x)
            sides.append(x.shape[-1])
    assert sides == [32, 32, 16, 8, 4]


def test_group_norm_is_its_formula_written_out() -> None:
    torch.manual_seed(0)
    norm = group_norm(24).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 24, 3, 3, dtype=torch.float64)
    expected = torch.empty_like(x)
    for b in range(2):
        for first in (0, 8, 16):
            group = x[b, first : first + 8]
            scale = ((group - group.mean()).square().mean() + norm.eps).sqrt()
            expected[b, first : first + 8] = (group - group.mean()) / scale
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (16, 2), (25, 1), (64, 8), (512, 64)])
def test_groups_have_eight_channels_where_that_divides(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_with_group_norm_nothing_else_changes() -> None:
    batch = resnet20(classes=7, channels=3)
    group = resnet20(classes=7, channels=3, norm="group")
    assert not any(isinstance(part, nn.BatchNorm2d) for part in group.modules())
    assert {n: p.shape for n, p in group.named_parameters()} == {
        n: p.shape for n, p in batch.named_parameters()
    }
    norms = [part for part in group.modules() if isinstance(part, nn.GroupNorm)]
    assert {n.num_channels: n.num_groups for n in norms} == {16: 2, 32: 4, 64: 8}
    assert not list(group.buffers())
