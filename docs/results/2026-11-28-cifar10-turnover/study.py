"""Do averaged statistics fail where weights turn over? 5,000 images of CIFAR-10 (JPEG q75).

Weights before a BatchNorm have no scale; what moves them is their rotation, and weight decay sets
its pace: after (1 − momentum)/(learning rate · weight decay) steps they have forgotten where they
were. The paper's run of figure 1 lasts 38 such times, one of 2,520 steps at its weight decay a
quarter of one. Here weight decay makes up for some of the missing steps: 2.5 (1e-3), 13 (5e-3).
"""

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
    # But for weight decay the runs of ../2026-11-24-cifar10-batchnorm.
    config = RunConfig(
        data=DataConfig(
            source=str(DATA / "cifar10-jpeg"),
            train_limit=IMAGES,
            test_limit=1_500,
        ),
        model=ModelConfig(name="resnet8", width=16),
        optim=OptimConfig(warmup_epochs=3),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    return Study(
        name="cifar10-turnover",
        title="Averaged statistics where weights turn over: CIFAR-10 (JPEG q75), ResNet-8",
        cost="two hours on one core",
        rows=tuple(decayed(config, weight_decay) for weight_decay in (5e-3, 1e-3)),
    )


def decayed(config: RunConfig, weight_decay: float) -> Row:
    architecture = f"ResNet-8, weight decay {weight_decay:g}"
    return Row(
        label=f"CIFAR-10 (JPEG q75), {architecture}",
        dataset="CIFAR-10 (JPEG q75)",
        architecture=architecture,
        config=replace(config, optim=replace(config.optim, weight_decay=weight_decay)),
        learning_rates=(0.2,),
        seeds=(0, 1, 2, 3),
        refits=False,
        search_monitors=("holdout_bn",),
    )
