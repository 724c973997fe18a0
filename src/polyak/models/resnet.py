"""Residual networks for small images: 3×3 stem of stride 1, no max-pooling.

Shape suffixes: b batch, c channels, h height, w width, k classes.
"""

from collections.abc import Callable, Sequence
from math import gcd

import torch.nn.functional as F
from torch import Tensor, nn

from polyak.models.config import Norm

MakeNorm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of 8 channels, or of the next number that divides them evenly.

    Source:
        Wu and He 2018. Their 32 groups would be single channels at these widths; 8 are ours.
    """
    return nn.GroupNorm(gcd(channels, max(1, channels // 8)), channels)


_NORMS: dict[Norm, MakeNorm] = {"batch": nn.BatchNorm2d, "group": group_norm}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016a, Fig. 5 left)."""

    def __init__(
        self, c_in: int, c_out: int, *, stride: int = 1, norm: MakeNorm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1 = norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = norm(c_out)
        # Option B of the paper: project only where the shape changes.
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else _projection(c_in, c_out, stride, norm)

    def forward(self, x_bchw: Tensor) -> Tensor:
        y_bchw = F.relu(self.norm1(self.conv1(x_bchw)), inplace=True)
        y_bchw = self.norm2(self.conv2(y_bchw))
        return F.relu(y_bchw + self.shortcut(x_bchw), inplace=True)


class ResNet(nn.Module):
    """Stages of basic blocks; each stage after the first halves the image and doubles the width.

    Args:
        blocks: Number of basic blocks of each stage.
        width: Channels of the first stage.
        classes: Number of logits.
        channels: Channels of the images.
        norm: "batch" as published, or "group" (see `group_norm`) and nothing else changed.

    Source:
        He et al. 2016a. The stem is that of its section 4.2 (CIFAR), for all depths.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        width: int,
        classes: int,
        channels: int,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        make = _NORMS[norm]
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = make(width)
        stages = [_stage(width, width, blocks[0], stride=1, norm=make)]
        for count in blocks[1:]:
            stages.append(_stage(width, 2 * width, count, stride=2, norm=make))
            width *= 2
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(width, classes)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = F.relu(self.norm(self.stem(x_bchw)), inplace=True)
        x_bchw = self.stages(x_bchw)
        logits_bk: Tensor = self.head(x_bchw.mean(dim=(2, 3)))
        return logits_bk


def resnet18(*, classes: int, channels: int, width: int = 64, norm: Norm = "batch") -> ResNet:
    """ResNet-18 with widths 64-128-256-512, as the paper uses it for 32×32 and 64×64 images.

    Another width w gives w-2w-4w-8w.

    Weights are torch's defaults; `build` gives the study's.

    Example:
        >>> sum(p.numel() for p in resnet18(classes=100, channels=3).parameters())
        11220132
    """
    return ResNet([2, 2, 2, 2], width=width, classes=classes, channels=channels, norm=norm)


def resnet34(*, classes: int, channels: int, width: int = 64, norm: Norm = "batch") -> ResNet:
    """ResNet-34 with widths 64-128-256-512; the paper's network for label noise."""
    return ResNet([3, 4, 6, 3], width=width, classes=classes, channels=channels, norm=norm)


def resnet20(*, classes: int, channels: int, width: int = 16, norm: Norm = "batch") -> ResNet:
    """Three stages of three blocks (He et al. 2016a, section 4.2, n = 3), for CPUs.

    Not their network to the last weight: shortcuts are projections (B), theirs padding (A).
    """
    return ResNet([3, 3, 3], width=width, classes=classes, channels=channels, norm=norm)


def resnet8(*, classes: int, channels: int, width: int = 16, norm: Norm = "batch") -> ResNet:
    """Three stages of one block (section 4.2 with n = 1), for demonstrations and tests."""
    return ResNet([1, 1, 1], width=width, classes=classes, channels=channels, norm=norm)


def _stage(c_in: int, c_out: int, count: int, *, stride: int, norm: MakeNorm) -> nn.Sequential:
    first = BasicBlock(c_in, c_out, stride=stride, norm=norm)
    return nn.Sequential(first, *(BasicBlock(c_out, c_out, norm=norm) for _ in range(count - 1)))


def _projection(c_in: int, c_out: int, stride: int, norm: MakeNorm) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), norm(c_out))
