"""A GPT on the bytes of Python's standard library: rows, and what is claimed of them.

Cosine, WSD and a constant rate by AdamW, and cosine by Muon. Ten seeds at `small`, an hour and a
quarter on one core (measured: a search run takes 71 s of a processor by AdamW, 81 s by Muon; 1,600
steps). The page takes half an hour more: of each arm 45 pairs of runs are compared over all bytes.
"""

from collections.abc import Iterator
from dataclasses import replace

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.records.claims import Claim
from polyak.records.vocabulary import BESIDE_THE_BANK, WINDOWS
from polyak.study.paper.beyond import claims as words
from polyak.study.paper.beyond.claims import claim, nats
from polyak.study.paper.beyond.sizes import TEXT
from polyak.study.plan import Row
from polyak.training.config import OptimConfig, RunConfig

MODELS = {
    "small": ModelConfig(name="gpt", width=64, depth=3),
    "tiny": ModelConfig(name="gpt", width=32, depth=1),
}
SOURCE = "text:stdlib"
COSINE, WSD = "GPT, AdamW, cosine", "GPT, AdamW, WSD"
CONSTANT, MUON = "GPT, AdamW, constant rate", "GPT, Muon, cosine"
ADAMW, MUONS = (4e-3, 0.3), (8e-3, 0.3)
"""Learning rate and weight decay of the plain training whose last iterate was the most accurate on
the hold-out, on a seed of its own: docs/results/2026-11-30-baselines."""


def gpt_rows(scale: str) -> Iterator[Row]:
    """AdamW with three schedules, of which cosine is refitted and annealed; Muon with cosine.

    Args:
        scale: One of `SCALES`.
    """
    size = TEXT[scale]
    config = RunConfig(
        data=DataConfig(source=SOURCE, train_limit=size.train_limit, test_limit=size.test_limit),
        model=MODELS[scale],
        optim=OptimConfig(
            name="adamw",
            betas=(0.9, 0.95),
            weight_decay=ADAMW[1],
            decayed="matrices",
            clip=1.0,
            warmup_epochs=size.warmup_epochs,
        ),
        averaging=size.averages(),
        # All, so that beyond-averages has the same runs.
        more_averages=BESIDE_THE_BANK,
        epochs=size.epochs,
        batch_size=size.batch_size,
        keep="chosen",
    )
    row = Row(
        label=COSINE,
        dataset=SOURCE,
        architecture="GPT",
        config=config,
        learning_rates=ADAMW[:1],
        seeds=size.seeds,
        follow_ups=("annealed",),
    )
    yield row
    config = replace(config, more_averages=WINDOWS)
    other = replace(row, follow_ups=(), refits=False, against=COSINE)
    wsd = replace(config, optim=replace(config.optim, schedule="wsd"))
    yield replace(other, label=WSD, config=wsd)
    constant = replace(config, optim=replace(config.optim, schedule="constant"))
    yield replace(other, label=CONSTANT, config=constant)
    optim = replace(config.optim, name="muon", weight_decay=MUONS[1])
    muon = replace(config, optim=optim)
    yield replace(other, label=MUON, config=muon, learning_rates=MUONS[:1])


def gpt_claims() -> Iterator[Claim]:
    """What is claimed of these rows; of text losses, where images have accuracies."""
    search = {"phase": "search"}
    for name, row in (("gpt", COSINE), ("muon", MUON)):
        yield words.early_lead(f"{name}-early-lead", row, of="nats")
        end = nats(row, "best average", "sgd", **search, at=1.0, side="within", bound=0.01)
        yield words.before_the_end(f"{name}-before-the-end", row, end)
    yield claim(
        "gpt-wsd",
        "Under WSD the average leads where the rate is still whole, at 75 % of the run, and at the "
        "end the last iterate meets it.",
        nats(WSD, "best average", "sgd", **search, at=0.75),
        nats(WSD, "best average", "sgd", **search, at=1.0, side="within", bound=0.01),
    )
    yield claim(
        "gpt-constant-reaches-cosine",
        "With a constant rate the average is at most 0.02 nats behind the last iterate of a cosine "
        "of equal length.",
        nats(CONSTANT, "ema_loss", "sgd", against_row=COSINE, **search, bound=0.02),
    )
    yield from words.at_equal_compute("gpt", COSINE)
    yield from words.best_windows(
        "gpt", COSINE, stop="_loss", phase="refit", where="where the average’s loss was lowest"
    )
    yield from words.best_windows(
        "gpt-constant",
        CONSTANT,
        stop="",
        phase="search",
        where="at the end",
    )
    yield words.slow_is_harmless("gpt-slow-is-harmless", COSINE)
