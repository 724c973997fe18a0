"""Bringing pixels to zero mean and unit variance per channel.

Shape suffixes: n, b images, c channels, h height, w width.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@dataclass(frozen=True)
class Normalisation:
    """Maps pixels 0..255 to (pixel/255 − mean) / std, channel by channel.

    Example:
        >>> white = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
        >>> round(Normalisation(mean=(0.5,), std=(0.25,))(white).item(), 5)
        2.0
    """

    mean: tuple[float, ...]
    """Mean of each channel; pixels count from 0 to 1."""

    std: tuple[float, ...]
    """Standard deviation of each channel; pixels count from 0 to 1."""

    def __call__(self, images_bchw: Tensor) -> Tensor:
        """The images as normalised float32. In a loop over batches, use `factors` once."""
        return normalise(images_bchw, *self.factors(images_bchw.device))

    def factors(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Scale and shift, float32 of shape (c, 1, 1), with result = pixel·scale + shift."""
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.mean, self.std))
        scale, shift = 1 / (255 * std), -mean / std
        return tuple(v.float()[:, None, None].to(device) for v in (scale, shift))  # type: ignore[return-value] # mypy cannot count


IDENTITY = Normalisation(mean=(0.0,), std=(1 / 255,))
"""Of one channel: a pixel becomes itself, as float32."""


def normalise(images_bchw: Tensor, scale_c11: Tensor, shift_c11: Tensor) -> Tensor:
    """pixel·scale + shift in float32, with the tensors of `Normalisation.factors`."""
    return torch.addcmul(shift_c11, images_bchw.to(scale_c11.dtype), scale_c11)


def normalisation_for(images_nchw: Tensor, classes: tuple[str, ...]) -> Normalisation:
    """The field's constants where the data set is a known one, else computed from `images_nchw`.

    CIFAR-10, CIFAR-100 and Tiny-ImageNet are recognised by image shape and class names, not by
    the name of a path, so that the same data is the same run wherever it lies. A channel that
    never varies gets std 1.

    Args:
        images_nchw: The training part, uint8.
        classes: Names of the classes.

    Source:
        CIFAR: the authors' code. Tiny-ImageNet: ImageNet's values, as in the authors' code.
    """
    known = _known(tuple(images_nchw.shape[1:]), classes)
    if known:
        return known
    pixel = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel_nhw in images_nchw.unbind(1):
        # Exact, and without a floating copy of the whole set.
        share = torch.bincount(channel_nhw.reshape(-1), minlength=256).double()
        share /= share.sum()
        centre = (share * pixel).sum()
        variance = (share * (pixel - centre).square()).sum().item()
        mean.append(centre.item())
        std.append(variance**0.5 or 1.0)
    return Normalisation(tuple(mean), tuple(std))


def _known(shape: tuple[int, ...], classes: tuple[str, ...]) -> Normalisation | None:
    if shape == (3, 32, 32) and classes == _CIFAR10_CLASSES:
        return Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    ends = (classes[0], classes[-1], len(classes))
    if shape == (3, 32, 32) and ends == ("apple", "worm", 100):
        return Normalisation((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    ids = all(re.fullmatch(r"n\d{8}", name) for name in classes)
    if shape == (3, 64, 64) and len(classes) == 200 and ids:
        return Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return None
