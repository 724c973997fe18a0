"""Ten times the weight decay: does the average still gain? 5,000 images of CIFAR-10 (JPEG q75)."""

import os
from pathlib import Path

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.fitting import scaled_decays, updates
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

DATA = Path(os.environ.get("DATA", "."))
IMAGES, BATCH, EPOCHS, EVERY = 5_000, 64, 40, 4


def study() -> Study:
    length = updates(IMAGES, batch_size=BATCH, epochs=EPOCHS, every=EVERY)
    # But for weight decay the row of ResNet-20 in ../2026-11-23-cifar10.
    config = RunConfig(
        data=DataConfig(
            source=str(DATA / "cifar10-jpeg"),
            train_limit=IMAGES,
            test_limit=1_500,
        ),
        model=ModelConfig(name="resnet20", width=16),
        optim=OptimConfig(weight_decay=1e-3, warmup_epochs=3),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    row = Row(
        label="CIFAR-10 (JPEG q75), ResNet-20, weight decay 0.001",
        dataset="CIFAR-10 (JPEG q75)",
        architecture="ResNet-20, weight decay 0.001",
        config=config,
        learning_rates=(0.2,),
        seeds=(0, 1, 2, 3),
        refit_monitors=("test",),
        follow_ups=("annealed",),
    )
    return Study(
        name="cifar10-decay",
        title="Clean labels, weight decay 1e-3: CIFAR-10 (JPEG q75), 5,000 images, ResNet-20",
        cost="two hours on one core",
        rows=(row,),
    )
