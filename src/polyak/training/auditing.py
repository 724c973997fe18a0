"""What a finished run's weights say about the images that they were trained on."""

from collections.abc import Sequence
from pathlib import Path

import torch

from polyak.data import Partition
from polyak.records.predictions import write_predictions
from polyak.records.runs import RunFolder
from polyak.training.config import RunConfig
from polyak.training.logits import OnArm, logits_of_arms


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
    """Write what arms say about training and hold-out images; see `logits_of_arms`.

    Parts are "train" and, where the run kept one, "holdout", whose images no weight has seen.
    Labels are "given", "clean" and "index", the place in the data set's whole training set.

    Raises:
        FileError: if the run kept no such arm.
    """
    labels = {
        "train": {
            "given": data.train_given_n,
            "clean": data.train_clean_n,
            "index": data.train_index_n,
        }
    }
    images_nchw = {"train": data.train_images_nchw}
    if data.holdout_images_nchw is not None:
        assert data.holdout_given_n is not None
        assert data.holdout_clean_n is not None
        assert data.holdout_index_n is not None
        images_nchw["holdout"] = data.holdout_images_nchw
        labels["holdout"] = {
            "given": data.holdout_given_n,
            "clean": data.holdout_clean_n,
            "index": data.holdout_index_n,
        }
    said = logits_of_arms(
        folder, images_nchw, config=config, data=data, arms=arms, device=device, on_arm=on_arm
    )
    write_predictions(path, arms=said, labels=labels)
