"""Weights and images to logits and scores.

Shape suffixes: n samples, c channels, h height, w width, k classes.
"""

import torch
from torch import Tensor, nn

from polyak.averaging import refresh_batchnorm
from polyak.averaging.model.modes import eval_mode
from polyak.data.device_images import DeviceImages
from polyak.errors import NonFiniteError
from polyak.metrics import accuracy, cross_entropy
from polyak.records.runs import Score
from polyak.records.vocabulary import Switch
from polyak.training.config import Precision, RunConfig
from polyak.training.randomness import generator
from polyak.training.steps import in_line, lowered

EVALUATION_BATCH = 256
GPU_EVALUATION_BATCH = 2000
"""On a GPU, where small batches leave it waiting for the next call."""
BATCHNORM_BATCH = 128
"""Images a batch when BatchNorm statistics are recomputed, whatever the run trains with."""


@torch.no_grad()
def predict(model: nn.Module, images_nchw: Tensor, *, precision: Precision = "float32") -> Tensor:
    """Logits of normalised images, shape (n, k), in eval mode; the model's modes are restored.

    Of windows of text they are those of all positions, window by window.

    Args:
        model: Where the images are.
        images_nchw: Normalised.
        precision: What is computed in; logits are float32.

    Raises:
        NonFiniteError: if a logit is NaN or infinite: the weights cannot be used any more.
    """
    with eval_mode(list(model.modules())):
        size = GPU_EVALUATION_BATCH if images_nchw.is_cuda else EVALUATION_BATCH
        with lowered(images_nchw.device, precision)():
            logits_nk = torch.cat(
                [in_line(model(x)) for x in torch.split(images_nchw, size)]
            ).float()
    if not logits_nk.isfinite().all():
        raise NonFiniteError(
            "the logits hold NaN or infinity; expected finite values. Lower the learning rate."
        )
    return logits_nk


def recompute_statistics(
    model: nn.Module,
    images: DeviceImages,
    config: RunConfig,
    *,
    augmentation: Switch | None = None,
) -> None:
    """Give a model the BatchNorm statistics of its weights, from one pass over the run's data.

    All weights see the same images, so that arms differ by weights alone.

    Args:
        model: With the weights of an arm.
        images: What the run trained on, with its crops and flips.
        config: Of the run.
        augmentation: Whether images are cropped and flipped; None: as the run has it.
    """
    batches = images.batches(
        BATCHNORM_BATCH,
        order=generator(config.seed, "final batchnorm order"),
        draws=generator(config.seed, "final batchnorm augmentation"),
        augmented=(augmentation or config.batchnorm_augmentation) == "on",
    )
    with torch.no_grad(), lowered(images.device, config.saved_precision)():
        refresh_batchnorm(model, batches, pooled="batchnorm" not in config.paper_code)


def score(logits_nk: Tensor, labels_n: Tensor) -> Score:
    """Cross-entropy in nats and accuracy as a fraction."""
    return Score(loss=cross_entropy(logits_nk, labels_n), accuracy=accuracy(logits_nk, labels_n))
