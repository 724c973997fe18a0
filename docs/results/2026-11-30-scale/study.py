"""Short runs on a seed of their own that choose the scale of the studies: what fits, and how soon?

CIFAR-10 (JPEG q75), clean labels, ResNet-18 of other widths, bfloat16.
"""

import os
from pathlib import Path

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.fitting import scaled_decays, updates
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

DATA = Path(os.environ.get("DATA", "."))
BATCH, EVERY, SEED = 64, 4, 90

# Images (a fifth of them held out), width, epochs, weight decay.
SCALES = (
    (20_000, 16, 12, 5e-4),
    (10_000, 16, 60, 5e-4),
    (10_000, 16, 80, 1.25e-3),
)


def row(images: int, width: int, epochs: int, weight_decay: float) -> Row:
    length = updates(images, batch_size=BATCH, epochs=epochs, every=EVERY)
    config = RunConfig(
        data=DataConfig(source=str(DATA / "cifar10-jpeg"), train_limit=images, test_limit=1_000),
        model=ModelConfig(name="resnet18", width=width),
        optim=OptimConfig(weight_decay=weight_decay, warmup_epochs=epochs / 20),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=epochs,
        batch_size=BATCH,
        keep="chosen",
        precision="bfloat16",
    )
    name = f"ResNet-18 of width {width}"
    return Row(
        label=f"{images:,} images, {name}, {epochs} epochs, weight decay {weight_decay:g}",
        dataset="CIFAR-10 (JPEG q75)",
        architecture=name,
        config=config,
        learning_rates=(0.2,),
        seeds=(SEED,),
        refits=False,
    )


def study() -> Study:
    return Study(
        name="scale",
        title="Choosing the scale: CIFAR-10 (JPEG q75), ResNet-18 of other widths, bfloat16",
        cost="an hour on one core",
        rows=tuple(row(*scale) for scale in SCALES),
    )
