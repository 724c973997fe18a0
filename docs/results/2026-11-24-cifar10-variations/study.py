"""Appendices C and D: bootstrapping, updates at every step. 5,000 images of CIFAR-10 (JPEG q75)."""

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
    config = RunConfig(
        data=DataConfig(
            source=str(DATA / "cifar10-jpeg"),
            train_limit=IMAGES,
            test_limit=1_500,
        ),
        model=ModelConfig(name="resnet20", width=16),
        optim=OptimConfig(weight_decay=1e-4, warmup_epochs=3),
        averaging=AveragingConfig(decays=scaled_decays(length(EVERY)), every=EVERY),
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
        name="cifar10-variations",
        title="Variations of one row: CIFAR-10 (JPEG q75), 5,000 images, 40 epochs, ResNet-20",
        cost="an hour on one core",
        rows=(
            base,
            varied(base, "bootstrapped each epoch", bootstrap=config.averaging.names[2]),
            varied(
                base,
                "updated every step",
                averaging=AveragingConfig(decays=scaled_decays(length(1), digits=6), every=1),
            ),
        ),
    )


def length(every: int) -> int:
    """Updates in the refit of all images, to which decays are fitted."""
    return updates(IMAGES, batch_size=BATCH, epochs=EPOCHS, every=every)


def varied(base: Row, words: str, **changes: object) -> Row:
    return replace(
        base,
        label=f"{base.label}, {words}",
        architecture=f"{base.architecture}, {words}",
        against=base.label,
        config=replace(base.config, **changes),
    )
