"""Wide residual networks: pre-activation blocks (BN, ReLU, convolution), few layers, many channels.

Shape suffixes: b batch, c channels, h height, w width, k classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class WideBlock(nn.Module):
    """Pre-activation block without dropout (Zagoruyko & Komodakis 2016, Fig. 1c).

    Where the shape changes, shortcut and convolutions start from the same activated input, as
    in that paper's code; elsewhere the shortcut is the input itself.
    """

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1, conv_bias: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=conv_bias)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=conv_bias)
        same = stride == 1 and c_in == c_out
        self.projection = None if same else nn.Conv2d(c_in, c_out, 1, stride, bias=conv_bias)

    def forward(self, x_bchw: Tensor) -> Tensor:
        a_bchw = F.relu(self.norm1(x_bchw), inplace=True)
        y_bchw = F.relu(self.norm2(self.conv1(a_bchw)), inplace=True)
        shortcut_bchw = x_bchw if self.projection is None else self.projection(a_bchw)
        sum_bchw: Tensor = self.conv2(y_bchw) + shortcut_bchw
        return sum_bchw


class WideResNet(nn.Module):
    """Three stages of wide blocks with `16·widen` channels and twice as many after each halving.

    Args:
        depth: Number of convolutions, projections included: 6·n + 4 with n blocks a stage.
        widen: Factor on the widths 16, 32, 64.
        classes: Number of logits.
        channels: Channels of the images.
        conv_bias: Whether convolutions have biases.
        final_norm_momentum: Share of the newest batch in the running statistics of the last
            BatchNorm, in (0, 1].
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        *,
        classes: int,
        channels: int,
        conv_bias: bool = False,
        final_norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        count = (depth - 4) // 6
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=conv_bias)
        self.stages = nn.Sequential(
            _stage(16, widths[0], count, stride=1, conv_bias=conv_bias),
            _stage(widths[0], widths[1], count, stride=2, conv_bias=conv_bias),
            _stage(widths[1], widths[2], count, stride=2, conv_bias=conv_bias),
        )
        self.norm = nn.BatchNorm2d(widths[2], momentum=final_norm_momentum)
        self.head = nn.Linear(widths[2], classes)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.stages(self.stem(x_bchw))
        x_bchw = F.relu(self.norm(x_bchw), inplace=True)
        logits_bk: Tensor = self.head(x_bchw.mean(dim=(2, 3)))
        return logits_bk


def wrn28_10(
    *, classes: int, channels: int, conv_bias: bool = False, final_norm_momentum: float = 0.1
) -> WideResNet:
    """WRN-28-10 without dropout. Weights are torch's defaults; `build` gives the study's.

    Args:
        classes: Number of logits.
        channels: Channels of the images.
        conv_bias: Biases in the convolutions, as in the averaging paper's code. Each way from
            them leads through a BatchNorm, so with batch statistics they change no logit.
        final_norm_momentum: 0.9 in the averaging paper's code, where the last BatchNorm then
            follows almost only the newest batch; 0.1 elsewhere.

    Source:
        Zagoruyko & Komodakis 2016. That code differs from it in two more points that are not
        offered here: it strides in a block's second convolution, and projects the input before
        BatchNorm and ReLU.
    """
    return WideResNet(
        28,
        10,
        classes=classes,
        channels=channels,
        conv_bias=conv_bias,
        final_norm_momentum=final_norm_momentum,
    )


def _stage(c_in: int, c_out: int, count: int, *, stride: int, conv_bias: bool) -> nn.Sequential:
    first = WideBlock(c_in, c_out, stride=stride, conv_bias=conv_bias)
    rest = (WideBlock(c_out, c_out, conv_bias=conv_bias) for _ in range(count - 1))
    return nn.Sequential(first, *rest)
