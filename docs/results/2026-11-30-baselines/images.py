"""Rate and weight decay of a ViT, weight decay of ResNet-20 of width 8, by plain training.

DATA=path/to/data polyak study docs/results/2026-11-30-baselines/images.py

On CIFAR-10 (JPEG q75): half as many epochs as the studies have, on a seed that none of them has.
"""

import os
from pathlib import Path

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, OptimConfig, RunConfig

DATA = Path(os.environ.get("DATA", "."))
EPOCHS, SEED = 12, 100
VIT = ModelConfig(name="vit", width=64, depth=4)
RESNET = ModelConfig(name="resnet20", width=8)
GROUP = ModelConfig(name="resnet20", width=8, norm="group")
TRIED = (
    (VIT, 0.01, (1e-3,)),
    (VIT, 0.05, (5e-4, 1e-3, 2e-3, 4e-3)),
    (VIT, 0.2, (1e-3,)),
    (RESNET, 2e-4, (0.1,)),
    (RESNET, 5e-4, (0.1,)),
    (RESNET, 1e-3, (0.1,)),
    (RESNET, 2e-3, (0.1,)),
    (RESNET, 5e-3, (0.1,)),
    (GROUP, 5e-4, (0.1,)),
    (GROUP, 2e-3, (0.03, 0.1, 0.3)),
)
"""Network, weight decay, learning rates."""


def row(model: ModelConfig, weight_decay: float, rates: tuple[float, ...]) -> Row:
    """6,400 images to train on; nothing is asked of averages."""
    optim = OptimConfig(weight_decay=weight_decay, warmup_epochs=1.5)
    if model is VIT:
        optim = OptimConfig(
            name="adamw", weight_decay=weight_decay, decayed="matrices", warmup_epochs=1.5
        )
    name = f"{model.name} with GroupNorm" if model is GROUP else model.name
    config = RunConfig(
        data=DataConfig(source=str(DATA / "cifar10-jpeg"), train_limit=8_000, test_limit=1_000),
        model=model,
        optim=optim,
        averaging=AveragingConfig(decays=(0.9,), every=2, swa=False),
        epochs=EPOCHS,
        batch_size=64,
        keep="chosen",
    )
    return Row(
        label=f"{name}, weight decay {weight_decay:g}, {EPOCHS} epochs",
        dataset="CIFAR-10 (JPEG q75)",
        architecture=model.name,
        config=config,
        learning_rates=rates,
        seeds=(SEED,),
        paper_decays=(0.9,),
        refits=False,
    )


def study() -> Study:
    """Weight decays of the ViT, with four rates at one of them, and of ResNet-20."""
    return Study(
        name="image-baseline",
        title="Rate and weight decay of the ViT, weight decay of ResNet-20 of width 8",
        cost="three quarters of an hour on one core",
        rows=tuple(row(*tried) for tried in TRIED),
    )
