"""What a finished run's weights say about the images that they were trained on.

Shape suffixes: n samples, c channels, h height, w width, k classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from polyak.data import Partition
from polyak.models import build
from polyak.records.predictions import write_predictions
from polyak.records.runs import RunFolder
from polyak.training.config import RunConfig
from polyak.training.prediction import Augmentation, memory_format_for, predict
from polyak.training.stored import arm_weights

CHUNK = 4096
"""Images that are normalised at a time: a whole training set as float32 may not fit."""

OnArm = Callable[[str], None]


def write_training_predictions(
    path: Path,
    folder: RunFolder,
    *,
    config: RunConfig,
    data: Partition,
    arms: Sequence[str],
    device: torch.device,
    on_arm: OnArm = lambda arm: None,
) -> None:
    """Write what arms say about training and hold-out images, without crop or flip.

    Parts are "train" and, where the run kept one, "holdout", whose images no weight has seen.
    Labels are "given", "clean" and "index", the place in the data set's whole training set.
    Arms are as saved: those with recomputed BatchNorm statistics have them.

    Args:
        path: The file, in the format of `Predictions`.
        folder: Of the finished run.
        config: Of the run.
        data: What the run trained on.
        arms: Which of its arms.
        device: Where to compute.
        on_arm: Called with each arm's name before its turn.

    Raises:
        FileError: if the run kept no such arm.
    """
    channels, size = data.train_images_nchw.shape[1:3]
    model = build(
        config.model,
        classes=len(data.classes),
        channels=channels,
        image_size=size,
        generator_seed=0,
    )
    layout = memory_format_for(model, image_size=size, device=device)
    images = Augmentation(data, padding=0, flip=False, device=device, memory_format=layout)
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub omits it
    labels = {
        "train": {
            "given": data.train_given_n,
            "clean": data.train_clean_n,
            "index": data.train_index_n,
        }
    }
    pixels = {"train": data.train_images_nchw}
    if data.holdout_images_nchw is not None:
        assert data.holdout_given_n is not None
        assert data.holdout_clean_n is not None
        assert data.holdout_index_n is not None
        pixels["holdout"] = data.holdout_images_nchw
        labels["holdout"] = {
            "given": data.holdout_given_n,
            "clean": data.holdout_clean_n,
            "index": data.holdout_index_n,
        }
    said: dict[str, dict[str, Tensor]] = {part: {} for part in pixels}
    for arm in arms:
        on_arm(arm)
        model.load_state_dict(arm_weights(folder, arm)[0])
        for part, images_nchw in pixels.items():
            said[part][arm] = _logits(model, images, images_nchw)
    write_predictions(path, arms=said, labels=labels)


def _logits(model: nn.Module, images: Augmentation, images_nchw: Tensor) -> Tensor:
    chunks = torch.split(images_nchw, CHUNK)
    return torch.cat([predict(model, images.ready(chunk)).cpu() for chunk in chunks])
