"""A run's images and labels on the device: augmented, normalised, batch by batch.

Shape suffixes: n samples, b batch, c channels, h height, w width, p positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from polyak.data.batches import augment, crop_and_flip, draw_crops_and_flips, epoch_batches, sent
from polyak.data.normalisation import normalise
from polyak.data.partitions import Partition


@dataclass(frozen=True, slots=True)
class DeviceImages:
    """A partition's training part on the device, and the way from pixels to a network's input."""

    data: Partition
    padding: int
    """Zeros on each side before a random crop. 0: no crop."""

    flip: bool
    """Whether to mirror each image with probability 1/2."""

    device: torch.device
    memory_format: torch.memory_format = torch.channels_last
    factors: tuple[Tensor, Tensor] = field(init=False)
    """Scale and shift of the normalisation, on the device."""

    images_nchw: Tensor = field(init=False)
    """The training part as uint8, on the device."""

    labels_n: Tensor = field(init=False)
    """Its given labels, on the device."""

    def __post_init__(self) -> None:
        held = {
            "factors": self.data.normalisation.factors(self.device),
            "images_nchw": self.data.train_images_nchw.to(self.device),
            "labels_n": self.data.train_given_n.to(self.device),
        }
        for name, value in held.items():
            object.__setattr__(self, name, value)

    def batches(
        self,
        batch_size: int,
        *,
        order: torch.Generator,
        draws: torch.Generator,
        skip: int = 0,
        augmented: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of the training part: normalised images and given labels.

        Args:
            batch_size: Images a batch; the last may be smaller. Windows, of text.
            order: Generator of the order.
            draws: Generator of crops and flips.
            skip: Batches of this order to leave out at its beginning, without draws for them.
            augmented: Whether to crop and flip; without, the images as they are.
        """
        padding, flip = (self.padding, self.flip) if augmented else (0, False)
        batches = epoch_batches(len(self.images_nchw), batch_size, order)
        # Of an image one label, of a window of text one at each position.
        labels_np = self.labels_n.view(len(self.images_nchw), -1)
        for chosen_b in islice(batches, skip, None):
            drawn = draw_crops_and_flips(len(chosen_b), padding=padding, flip=flip, generator=draws)
            # Drawn on the CPU, so that every device sees the same; no wait for the device.
            index_b, corner_b2, mirrored_b = (sent(x, self.device) for x in (chosen_b, *drawn))
            images = crop_and_flip(
                self.images_nchw[index_b], corner_b2, mirrored_b, padding=padding
            )
            yield self.normalise(images), labels_np[index_b].flatten()

    def augment_holdout(self, draws: torch.Generator) -> Tensor:
        """The hold-out as the network takes it, cropped and flipped like training images."""
        images_nchw = self.data.holdout_images_nchw
        assert images_nchw is not None
        return self.normalise(
            augment(images_nchw, padding=self.padding, flip=self.flip, generator=draws)
        )

    def normalise(self, images_nchw: Tensor) -> Tensor:
        """uint8 images as the network takes them: normalised, on the device, in its layout."""
        normalised = normalise(images_nchw.to(self.device), *self.factors)
        return normalised.contiguous(memory_format=self.memory_format)
