"""The order of an epoch, and random crops and flips for a whole batch at once.

Shape suffixes: b batch, c channels, h height, w width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from polyak.errors import ConfigError


def epoch_batches(n: int, batch_size: int, generator: Generator) -> Iterator[Tensor]:
    """Indices of the batches of one epoch: each of 0..n-1 once, in random order.

    The last batch is short where `batch_size` does not divide n; it is kept.

    Example:
        >>> [len(batch) for batch in epoch_batches(10, 4, Generator())]
        [4, 4, 2]
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}; expected >= 1.")
    order = torch.randperm(n, generator=generator)
    for start in range(0, n, batch_size):
        yield order[start : start + batch_size]


def augment(images_bchw: Tensor, *, padding: int, flip: bool, generator: Generator) -> Tensor:
    """Crop each image at a random place after padding it with zeros, and mirror half of them.

    For pixels before normalisation: the padding is black, as in the usual CIFAR recipe, and not
    the mean colour that zeros would be afterwards.

    Args:
        images_bchw: Images of any dtype on any device, shape (b, c, h, w).
        padding: Zeros on each side, in pixels. 0: no crop.
        flip: Whether to mirror each image with probability 1/2.
        generator: Source of the draws, on the CPU, so that every device sees the same draws.

    Returns:
        Images of the same shape, dtype and device.
    """
    corner_b2, mirrored_b = draw_crops_and_flips(
        len(images_bchw), padding=padding, flip=flip, generator=generator
    )
    device = images_bchw.device
    return crop_and_flip(
        images_bchw, sent(corner_b2, device), sent(mirrored_b, device), padding=padding
    )


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device; a GPU gets it in its turn, and nothing waits for that."""
    if device.type != "cuda":
        return drawn.to(device)
    # From memory that the system may move, the copy would wait.
    return drawn.pin_memory().to(device, non_blocking=True)


def draw_crops_and_flips(
    b: int, *, padding: int, flip: bool, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Where each of b images is cropped, and which are mirrored.

    Returns:
        Top and left corner of each crop in the padded image, int64 in [0, 2·padding], shape
        (b, 2); and whether each image is mirrored, bool, shape (b,).
    """
    if padding < 0:
        raise ConfigError(f"crop_padding is {padding!r}; expected >= 0.")
    corner_b2 = torch.randint(0, 2 * padding + 1, (b, 2), generator=generator)
    coin_b = torch.randint(0, 2, (b,), generator=generator) == 1
    return corner_b2, coin_b if flip else torch.zeros_like(coin_b)


def crop_and_flip(
    images_bchw: Tensor, corner_b2: Tensor, mirrored_b: Tensor, *, padding: int
) -> Tensor:
    """Crop and mirror each image as drawn; no draw and no host-device wait in here."""
    if padding:
        h, w = images_bchw.shape[2:]
        padded = F.pad(images_bchw, (padding,) * 4)
        # A view of all crops of all images, from which one index takes one crop each.
        crops = padded.unfold(2, h, 1).unfold(3, w, 1)
        each = torch.arange(len(images_bchw), device=images_bchw.device)
        images_bchw = crops[each, :, corner_b2[:, 0], corner_b2[:, 1]]
    return torch.where(mirrored_b[:, None, None, None], images_bchw.flip(3), images_bchw)
