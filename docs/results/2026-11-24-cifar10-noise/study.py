"""Synthetic label noise: 5,000 images of CIFAR-10 (JPEG q75), 40 % of the labels redrawn."""

import os
from pathlib import Path

from polyak.data import DataConfig, NoiseConfig
from polyak.models import ModelConfig
from polyak.study.fitting import scaled_decays, updates
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

DATA = Path(os.environ.get("DATA", "."))
IMAGES, BATCH, EPOCHS, EVERY = 5_000, 64, 60, 4


def study() -> Study:
    length = updates(IMAGES, batch_size=BATCH, epochs=EPOCHS, every=EVERY)
    config = RunConfig(
        data=DataConfig(
            source=str(DATA / "cifar10-jpeg"),
            train_limit=IMAGES,
            test_limit=1_500,
            noise=NoiseConfig(kind="symmetric", rate=0.4),
        ),
        model=ModelConfig(name="resnet20", width=16),
        optim=OptimConfig(weight_decay=1e-4, warmup_epochs=3),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    row = Row(
        label="CIFAR-10 (JPEG q75), 40 % noise, ResNet-20",
        dataset="CIFAR-10 (JPEG q75), 40 % symmetric noise",
        architecture="ResNet-20",
        config=config,
        learning_rates=(0.2,),
        seeds=(0, 1, 2, 3),
        # The search alone says how much of the noise SGD learns.
        refits=False,
    )
    return Study(
        name="cifar10-noise",
        title="Synthetic label noise: CIFAR-10 (JPEG q75), 5,000 images, 60 epochs, ResNet-20",
        cost="80 minutes on one core",
        rows=(row,),
    )
