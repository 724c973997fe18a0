"""Weights and images to logits and scores.

Shape suffixes: n samples, c channels, h height, w width, k classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from polyak.averaging.model.modes import eval_mode
from polyak.data import Partition, augment, epoch_batches
from polyak.data.batches import crop_and_flip, draw_crops_and_flips, sent
from polyak.data.normalisation import normalise
from polyak.errors import NonFiniteError
from polyak.metrics import accuracy, cross_entropy
from polyak.records.runs import Score
from polyak.training.config import Precision
from polyak.training.steps import lowered

EVALUATION_BATCH = 256
GPU_EVALUATION_BATCH = 2000
"""On a GPU, where small batches leave it waiting for the next call."""
BATCHNORM_BATCH = 128
"""Images a batch when BatchNorm statistics are recomputed, whatever the run trains with."""


@torch.no_grad()
def predict(model: nn.Module, images_nchw: Tensor, *, precision: Precision = "float32") -> Tensor:
    """Logits of normalised images, shape (n, k), in eval mode; the model's flags come back.

    Args:
        model: Where the images are.
        images_nchw: Normalised.
        precision: What is computed in; logits are float32.

    Raises:
        NonFiniteError: if a logit is NaN or infinite: the weights are past use.
    """
    with eval_mode(list(model.modules())):
        size = GPU_EVALUATION_BATCH if images_nchw.is_cuda else EVALUATION_BATCH
        with lowered(images_nchw.device, precision)():
            logits_nk = torch.cat([model(x) for x in torch.split(images_nchw, size)]).float()
    if not logits_nk.isfinite().all():
        raise NonFiniteError(
            "the logits hold NaN or infinity; expected finite values. Lower the learning rate."
        )
    return logits_nk


def score(logits_nk: Tensor, labels_n: Tensor) -> Score:
    """Cross-entropy in nats and accuracy as a fraction."""
    return Score(loss=cross_entropy(logits_nk, labels_n), accuracy=accuracy(logits_nk, labels_n))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training images are changed and normalised, batch by batch."""

    data: Partition
    padding: int
    flip: bool
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
        self, batch_size: int, *, order: torch.Generator, draws: torch.Generator, skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of the training part: normalised images and given labels.

        Args:
            batch_size: Images a batch; the last may be smaller.
            order: Generator of the order.
            draws: Generator of crops and flips.
            skip: Batches of this order to leave out at its beginning, without draws for them.
        """
        batches = epoch_batches(len(self.labels_n), batch_size, order)
        for chosen_b in islice(batches, skip, None):
            drawn = draw_crops_and_flips(
                len(chosen_b), padding=self.padding, flip=self.flip, generator=draws
            )
            # Drawn on the CPU, so that every device sees the same; no wait for the device.
            index_b, corner_b2, mirrored_b = (sent(x, self.device) for x in (chosen_b, *drawn))
            images = crop_and_flip(
                self.images_nchw[index_b], corner_b2, mirrored_b, padding=self.padding
            )
            yield self.ready(images), self.labels_n[index_b]

    def holdout(self, draws: torch.Generator) -> Tensor:
        """The hold-out as the network takes it, cropped and flipped like training images."""
        images_nchw = self.data.holdout_images_nchw
        assert images_nchw is not None
        return self.ready(
            augment(images_nchw, padding=self.padding, flip=self.flip, generator=draws)
        )

    def ready(self, images_nchw: Tensor) -> Tensor:
        """uint8 images as the network takes them: normalised, on the device, in its layout."""
        normalised = normalise(images_nchw.to(self.device), *self.factors)
        return normalised.contiguous(memory_format=self.memory_format)


def memory_format_for(
    model: nn.Module, *, image_size: int, device: torch.device
) -> torch.memory_format:
    """The layout in which a network trains: channels last, which is faster, where it is safe.

    On a CPU with AVX-512 and torch 2.13 training narrow networks on images of 64 pixels in that
    layout ended in segmentation faults: ResNet-8 of width 4 at batch 8, of width 8 at batch 128;
    not of width 12 or 16, and not at 32 pixels. The cause is not known.
    """
    narrow = any(isinstance(m, nn.Conv2d) and m.out_channels < 16 for m in model.modules())
    if device.type == "cpu" and narrow and image_size > 32:
        return torch.contiguous_format
    return torch.channels_last
