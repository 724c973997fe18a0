"""VGG-16 for small images, without BatchNorm.

Shape suffixes: b batch, c channels, h height, w width, k classes.
"""

from torch import Tensor, nn

# Configuration D of Simonyan & Zisserman 2014: channels of each convolution, by stage.
CONFIGURATION_D = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Five stages of 3×3 convolutions, each ended by 2×2 max-pooling, and a head 512-512-classes.

    Global average pooling in front of the head lets larger images in; at 32×32 pixels one
    pixel is left there and the pooling does nothing.

    Args:
        classes: Number of logits.
        channels: Channels of the images.

    Source:
        Simonyan & Zisserman 2014, configuration D, for the convolutions. The head with two
        hidden layers of 512, each after dropout of 0.5, is the averaging paper's code's.
    """

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        stages = []
        for widths in CONFIGURATION_D:
            stages.append(_stage(channels, widths))
            channels = widths[-1]
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(channels, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(512, classes)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bc = self.pool(self.stages(x_bchw)).flatten(start_dim=1)
        logits_bk: Tensor = self.head(self.hidden(x_bc))
        return logits_bk


def vgg16(*, classes: int, channels: int) -> VGG:
    """VGG-16 without BatchNorm. Weights are torch's defaults; `build` gives the study's."""
    return VGG(classes=classes, channels=channels)


def _stage(c_in: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_out in widths:
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(inplace=True)]
        c_in = c_out
    return nn.Sequential(*layers, nn.MaxPool2d(2))
