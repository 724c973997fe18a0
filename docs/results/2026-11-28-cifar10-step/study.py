"""Appendix A: step decay instead of a cosine. CIFAR-10 (JPEG q75)."""

import os
from dataclasses import replace
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
    config = RunConfig(
        data=DataConfig(
            source=str(DATA / "cifar10-jpeg"),
            train_limit=IMAGES,
            test_limit=1_500,
        ),
        model=ModelConfig(name="resnet20", width=16),
        optim=OptimConfig(weight_decay=1e-4, warmup_epochs=3),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    # The base's runs are those of ../2026-11-23-cifar10.
    base = Row(
        label="CIFAR-10 (JPEG q75), ResNet-20",
        dataset="CIFAR-10 (JPEG q75)",
        architecture="ResNet-20",
        config=config,
        learning_rates=(0.2,),
        refits=False,
    )
    return Study(
        name="cifar10-step",
        title="Step decay: CIFAR-10 (JPEG q75), 5,000 images, ResNet-20",
        cost="an hour on one core",
        rows=(
            base,
            replace(
                base,
                label=f"{base.label}, step decay",
                architecture=f"{base.architecture}, step decay",
                against=base.label,
                # The paper's epochs 60, 120 and 160 of 200.
                config=replace(
                    config,
                    optim=replace(config.optim, schedule="step", milestones=(12, 24, 32), drop=5.0),
                ),
            ),
        ),
    )
