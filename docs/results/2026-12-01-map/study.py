"""When does averaging pay? A map of how well SGD fits its images × its turnover.

10,000 images of CIFAR-10 (JPEG q75), ResNet-18 of a quarter of its width, bfloat16. Epochs and
weight decay rise by about 3.2 from cell to cell, so cells on a diagonal have one turnover and
differ in fit. The cell of 120 epochs at 8.5e-4 is ../2026-11-30-cifar10-fit.
"""

import os
from itertools import product
from pathlib import Path

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.records.claims import Claim, Comparison
from polyak.study.fitting import scaled_decays, updates
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

DATA = Path(os.environ.get("DATA", "."))
IMAGES, BATCH, EVERY = 10_000, 64, 4
SHORT, MIDDLE, LONG = 12, 38, 120
LIGHT, USUAL, HEAVY = 2.7e-4, 8.5e-4, 2.7e-3
CELLS = [
    cell for cell in product((SHORT, MIDDLE, LONG), (LIGHT, USUAL, HEAVY)) if cell != (LONG, USUAL)
]


def label(epochs: int, decay: float) -> str:
    return f"{epochs} epochs, weight decay {decay:g}"


UNFITTED = [label(SHORT, decay) for decay in (LIGHT, USUAL, HEAVY)]
FITTED = [label(LONG, decay) for decay in (LIGHT, HEAVY)]


def study() -> Study:
    return Study(
        name="map",
        title="When does averaging pay? Fit and turnover",
        cost="thirteen hours on one core",
        rows=tuple(row(*cell) for cell in CELLS),
        claims=(
            claim(
                "fitted-loss",
                "Where SGD fits its images the stopped average has a lower loss at equal compute.",
                [early(each, "loss", "below", 0.0) for each in FITTED],
            ),
            claim(
                "fitted-at-the-end",
                "There the power-function average at the end, not chosen, has a lower loss too.",
                [at_the_end(each, "below", 0.0) for each in FITTED],
            ),
            claim(
                "unfitted-loss",
                "Where SGD is far from fitting them the stopped average has about SGD’s loss.",
                [early(each, "loss", "within", 0.03) for each in UNFITTED],
            ),
            claim(
                "unfitted-accuracy",
                "There it is ahead by less than half a point of accuracy.",
                [early(each, "accuracy", "below", 0.5) for each in UNFITTED],
            ),
            claim(
                "unfitted-at-the-end",
                "There the power-function average at the end gains nothing.",
                [at_the_end(each, "above", -0.01) for each in UNFITTED],
            ),
        ),
    )


def row(epochs: int, decay: float) -> Row:
    length = updates(IMAGES, batch_size=BATCH, epochs=epochs, every=EVERY)
    return Row(
        label=label(epochs, decay),
        dataset="CIFAR-10 (JPEG q75)",
        architecture="ResNet-18 of width 16",
        config=RunConfig(
            data=DataConfig(source=str(DATA / "cifar10-jpeg"), train_limit=IMAGES),
            model=ModelConfig(name="resnet18", width=16),
            optim=OptimConfig(weight_decay=decay, warmup_epochs=epochs / 24),
            averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
            epochs=epochs,
            batch_size=BATCH,
            more_averages=("tail", "power"),
            keep="chosen",
            precision="bfloat16",
        ),
        learning_rates=(0.2,),
        # What gains little needs more runs to show it, and short runs are cheap.
        seeds=(0, 1, 2, 3, 4) if epochs == SHORT else (0, 1, 2),
        refits=False,
        follow_ups=("annealed",),
    )


def claim(name: str, sentence: str, comparisons: list[Comparison]) -> Claim:
    return Claim(id=name, sentence=sentence, comparisons=tuple(comparisons))


def early(row: str, metric: str, side: str, bound: float) -> Comparison:
    """EMA (acc.) at its epoch against SGD annealed by then."""
    return Comparison(
        row=row,
        metric=metric,
        arm="ema_acc_bn",
        against="sgd",
        phase="search",
        against_phase="annealed",
        side=side,
        bound=bound,
        unit="nats" if metric == "loss" else "points",
    )


def at_the_end(row: str, side: str, bound: float) -> Comparison:
    """The power-function average after the last epoch against SGD's last weights, both with BN."""
    return Comparison(
        row=row,
        metric="loss",
        arm="power_bn",
        against="sgd_bn",
        phase="search",
        side=side,
        bound=bound,
        unit="nats",
    )
