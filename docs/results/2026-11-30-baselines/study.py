"""Learning rate and weight decay of the byte model, by plain training.

One of the two is varied at a time, for AdamW and for Muon. No study has the seed; judged
is the last iterate on the hold-out. SEED=101 in the environment is another seed.
"""

import os

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, OptimConfig, RunConfig

SEED = int(os.environ.get("SEED", "100"))
TRIED = {
    "adamw": {0.1: (1e-3, 2e-3, 4e-3, 8e-3), 0.03: (2e-3,), 0.3: (4e-3,), 1.0: (4e-3,)},
    "muon": {0.1: (2e-3, 4e-3, 8e-3), 0.3: (4e-3,), 1.0: (4e-3,)},
}
"""Learning rates by weight decay, by optimiser."""


def row(name: str, weight_decay: float, learning_rates: tuple[float, ...]) -> Row:
    """1,600 steps of eight windows of 128 bytes; nothing is asked of averages."""
    config = RunConfig(
        data=DataConfig(source="text:stdlib", train_limit=1_000, test_limit=64),
        model=ModelConfig(name="gpt", depth=3, width=64),
        optim=OptimConfig(
            name=name,
            weight_decay=weight_decay,
            decayed="matrices",
            clip=1.0,
            warmup_epochs=1,
        ),
        averaging=AveragingConfig(decays=(0.9,), every=2, swa=False),
        epochs=16,
        batch_size=8,
        keep="chosen",
    )
    return Row(
        label=f"{name}, weight decay {weight_decay:g}",
        dataset="text:stdlib",
        architecture="GPT",
        config=config,
        learning_rates=learning_rates,
        seeds=(SEED,),
        paper_decays=(0.9,),
        refits=False,
    )


def study() -> Study:
    """Learning rates at one weight decay and weight decays at one learning rate."""
    return Study(
        name=f"byte-baseline-{SEED}",
        title="Learning rate and weight decay of a byte model",
        cost="a quarter of an hour on one core",
        rows=tuple(
            row(name, weight_decay, rates)
            for name, of_name in TRIED.items()
            for weight_decay, rates in of_name.items()
        ),
    )
