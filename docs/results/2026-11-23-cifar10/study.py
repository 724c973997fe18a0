"""Clean labels: 5,000 images of CIFAR-10 (JPEG q75), two networks."""

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
    return Study(
        name="cifar10-small",
        title="Clean labels: CIFAR-10 (JPEG q75), 5,000 images, 40 epochs",
        cost="four hours on one core",
        rows=(
            row("ResNet-8", "resnet8"),
            row("ResNet-20", "resnet20"),
        ),
    )


def row(architecture: str, model: str) -> Row:
    length = updates(IMAGES, batch_size=BATCH, epochs=EPOCHS, every=EVERY)
    config = RunConfig(
        data=DataConfig(
            source=str(DATA / "cifar10-jpeg"),
            train_limit=IMAGES,
            test_limit=1_500,
        ),
        model=ModelConfig(name=model, width=16),
        optim=OptimConfig(weight_decay=1e-4, warmup_epochs=3),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    return Row(
        label=f"CIFAR-10 (JPEG q75), {architecture}",
        dataset="CIFAR-10 (JPEG q75)",
        architecture=architecture,
        config=config,
        learning_rates=(0.2,),
        seeds=(0, 1, 2, 3),
        refit_monitors=("test",),
        follow_ups=("annealed",),
    )
