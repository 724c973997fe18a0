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
WARMUP = {16: 1, 10: 0.5}
"""In passes."""
FIRST = {
    ("adamw", 0.1, 0.999): (1e-3, 2e-3, 4e-3, 8e-3),
    ("adamw", 0.03, 0.999): (2e-3,),
    ("adamw", 0.3, 0.999): (4e-3,),
    ("adamw", 1.0, 0.999): (4e-3,),
    ("muon", 0.1, 0.999): (2e-3, 4e-3),
}
"""Learning rates by optimiser, weight decay and the second of AdamW's betas: 16 passes over 800
windows, which Muon learns by heart."""
SECOND = {
    ("adamw", 0.3, 0.95): (4e-3,),
    ("muon", 1.0, 0.95): (4e-3, 8e-3),
    ("adamw", 0.1, 0.95): (2e-3, 4e-3),
    ("muon", 0.3, 0.95): (4e-3, 8e-3, 1.6e-2),
}
"""The same of 10 passes over 1,280 windows."""


def row(
    name: str, weight_decay: float, beta: float, learning_rates: tuple[float, ...], passes: int
) -> Row:
    """1,600 steps of eight windows of 128 bytes; nothing is asked of averages."""
    config = RunConfig(
        data=DataConfig(source="text:stdlib", train_limit=16_000 // passes, test_limit=64),
        model=ModelConfig(name="gpt", depth=3, width=64),
        optim=OptimConfig(
            name=name,
            betas=(0.9, beta),
            weight_decay=weight_decay,
            decayed="matrices",
            clip=1.0,
            warmup_epochs=WARMUP[passes],
        ),
        averaging=AveragingConfig(decays=(0.9,), every=2, swa=False),
        epochs=passes,
        batch_size=8,
        keep="chosen",
    )
    return Row(
        label=f"{name}, weight decay {weight_decay:g}, beta {beta:g}, {passes} passes",
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
            row(*settings, rates, passes)
            for passes, tried in ((16, FIRST), (10, SECOND))
            for settings, rates in tried.items()
        ),
    )
