"""Do recomputed BatchNorm statistics hurt late in training, and is missing augmentation the reason?

python batchnorm.py OUT   with the output folder of the study beside this file (its runs' weights)

Test accuracy and loss of saved weights, all 10,000 test images, under statistics from: training as
saved, all training images cropped and flipped, the same without, and 2,048 of them without.
"""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from polyak import refresh_batchnorm
from polyak.data import load, partition, prepare
from polyak.data.device_images import DeviceImages
from polyak.models import build
from polyak.records.runs import run_folder
from polyak.training.config_file import read_run_config
from polyak.training.logits import arm_weights
from polyak.training.prediction import predict, score
from polyak.training.randomness import generator

ARMS = ("ema_loss", "ema_acc", "sgd")  # early, middle, last epoch; statistics as averaged along
CPU = torch.device("cpu")


def main(out: Path) -> None:
    here = Path(__file__).parent
    (row,) = json.loads((here / "plan.json").read_text())["rows"]
    with (here / "batchnorm.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("seed", "arm", "epoch", "statistics", "accuracy", "loss"))
        for seed, run_id in row["refit"].items():
            for line in measured(out, run_id):
                writer.writerow((seed, *line))
                file.flush()


def measured(out: Path, run_id: str):
    """Arm, epoch, kind of statistics, accuracy and loss."""
    folder = run_folder(out, run_id)
    config = read_run_config(folder.path / "config.json")
    wanted = prepare(replace(config.data, test_limit=None, fingerprint=None))
    data = partition(load(wanted), wanted, holdout=False)
    model = build(
        config.model, classes=len(data.classes), channels=3, image_size=32, generator_seed=0
    ).to(memory_format=torch.channels_last)
    augmented = DeviceImages(data, config.data.crop_padding, config.data.flip, CPU)
    plain = DeviceImages(data, 0, False, CPU)
    test_nchw = plain.normalise(data.test_images_nchw)
    kinds = {
        "as saved": None,
        "all, augmented": (augmented, None),
        "all, plain": (plain, None),
        "2,048, plain": (plain, 2_048),
    }
    for arm in ARMS:
        state, origin = arm_weights(folder, arm)
        for name, kind in kinds.items():
            model.load_state_dict(state)
            if kind is not None:
                images, limit = kind
                batches = images.batches(
                    128,
                    order=generator(config.seed, "order of statistics"),
                    draws=generator(config.seed, "crops of statistics"),
                )
                with torch.no_grad():
                    refresh_batchnorm(model, (x for x, _ in batches), max_samples=limit)
            found = score(predict(model, test_nchw), data.test_labels_n)
            yield arm, origin["epoch"], name, found.accuracy, found.loss


if __name__ == "__main__":
    main(Path(sys.argv[1]))
