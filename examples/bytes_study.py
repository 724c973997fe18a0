"""A GPT on the bytes of Python's standard library, with three schedules; minutes a run on a core.

    polyak study examples/bytes_study.py --dry-run
    polyak study examples/bytes_study.py --windows

AdamW with cosine, with WSD and with a constant rate. With `--windows` each run also has averages
whose mean age is 1 %, 6.7 % and 10 % of it.
"""

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, OptimConfig, RunConfig

SCHEDULES = ("cosine", "wsd", "constant")
DECAYS = (0.8, 0.9, 0.95, 0.98)


def run(schedule: str) -> RunConfig:
    """9,600 windows of 128 bytes in 600 steps, a model of 0.8 million weights."""
    return RunConfig(
        data=DataConfig(source="text:stdlib", train_limit=1200),
        model=ModelConfig(name="gpt", depth=4, width=128),
        optim=OptimConfig(
            name="adamw",
            lr=2e-3,
            weight_decay=0.1,
            decayed="matrices",
            clip=1.0,
            warmup_epochs=1,
            schedule=schedule,
        ),
        # Warm-up holds all longer windows equal to 0.98's in so few updates.
        averaging=AveragingConfig(decays=DECAYS, every=1),
        epochs=10,
        batch_size=16,
    )


def study() -> Study:
    """A row a schedule, one seed: a first look."""
    return Study(
        name="bytes",
        title="A GPT on bytes",
        cost="a quarter of an hour on one core",
        rows=tuple(
            Row(
                label=schedule,
                dataset="text:stdlib",
                architecture="GPT",
                config=run(schedule),
                learning_rates=(2e-3,),
                paper_decays=DECAYS,
                seeds=(0,),
                refits=False,
            )
            for schedule in SCHEDULES
        ),
    )
