"""Human label noise, ten times the weight decay: CIFAR-10N worse, 5,000 JPEG images, 60 epochs."""

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
    # But for weight decay the searches are those of ../2026-11-24-cifar10n-60.
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
        optim=OptimConfig(weight_decay=1e-3, warmup_epochs=3),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    row = Row(
        label="CIFAR-10N worse (JPEG q75), ResNet-20, weight decay 0.001",
        dataset="CIFAR-10N(Worse) (JPEG q75)",
        architecture="ResNet-20, weight decay 0.001",
        config=config,
        learning_rates=(0.2,),
        seeds=(0, 1, 2),
        follow_ups=("annealed",),
    )
    return Study(
        name="cifar10n-decay",
        title="Human label noise, weight decay 1e-3: CIFAR-10N worse (JPEG q75), 5,000 images",
        cost="two hours on one core",
        rows=(row,),
    )
