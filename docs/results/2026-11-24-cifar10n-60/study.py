"""Human label noise, 60 epochs: 5,000 images of CIFAR-10 (JPEG q75), worst labels of CIFAR-10N."""

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
            noise=NoiseConfig(
                kind="file", file=str(DATA / "cifar-n" / "CIFAR-10_human.pt"), key="worse_label"
            ),
        ),
        model=ModelConfig(name="resnet20", width=16),
        optim=OptimConfig(weight_decay=1e-4, warmup_epochs=3),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    row = Row(
        label="CIFAR-10N worse (JPEG q75), ResNet-20",
        dataset="CIFAR-10N(Worse) (JPEG q75)",
        architecture="ResNet-20",
        config=config,
        learning_rates=(0.2,),
        seeds=(0, 1, 2, 3),
        # The search alone says how much of the noise SGD learns.
        refits=False,
    )
    return Study(
        name="cifar10n-60",
        title="Human label noise: CIFAR-10N worse (JPEG q75), 5,000 images, 60 epochs, ResNet-20",
        cost="an hour on one core",
        rows=(row,),
    )
