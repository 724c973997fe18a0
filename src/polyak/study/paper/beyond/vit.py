"""A vision transformer on CIFAR-10, trained by AdamW: rows, and what is claimed of them.

Five seeds at `small`, two and a half hours on one core (25 runs of 300 to 375 s, measured). Where
a claim is about models of 80 % of the images, nothing is refitted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from polyak.models import ModelConfig
from polyak.records.claims import Claim
from polyak.records.vocabulary import BESIDE_THE_BANK, WINDOWS
from polyak.study.paper.beyond import claims as words
from polyak.study.paper.beyond.claims import claim, points
from polyak.study.paper.beyond.sizes import IMAGES
from polyak.study.paper.datasets import title_of
from polyak.study.plan import Row
from polyak.training.config import OptimConfig, RunConfig

MODELS = {
    "small": ModelConfig(name="vit", width=64, depth=4),
    "tiny": ModelConfig(name="vit", width=32, depth=1),
}
COSINE, CONSTANT, WRONG = "ViT, cosine", "ViT, constant rate", "ViT, wrong labels"


def vit_rows(scale: str, given: Mapping[str, str]) -> Iterator[Row]:
    """Cosine, with the last iterate annealed in the average's budget; constant rate; wrong labels.

    Args:
        scale: One of `SCALES`.
        given: What a user put in a place of data.
    """
    size = IMAGES[scale]
    config = RunConfig(
        data=size.data(given),
        model=MODELS[scale],
        optim=OptimConfig(
            name="adamw", weight_decay=0.05, decayed="matrices", warmup_epochs=size.warmup_epochs
        ),
        averaging=size.averages(),
        # All, so that beyond-averages has the same runs.
        more_averages=BESIDE_THE_BANK,
        epochs=size.epochs,
        batch_size=size.batch_size,
        precision="bfloat16",
        keep="chosen",
    )
    row = Row(
        label=COSINE,
        dataset=title_of("cifar10", given),
        architecture="ViT",
        config=config,
        learning_rates=(2e-3,),
        seeds=size.seeds,
        follow_ups=("annealed",),
    )
    yield row
    config = replace(config, more_averages=WINDOWS)
    other = replace(row, follow_ups=(), refits=False, against=COSINE)
    constant = replace(config, optim=replace(config.optim, schedule="constant"))
    yield replace(other, label=CONSTANT, config=constant)
    wrong = replace(config, data=size.data(given, wrong=True))
    yield replace(other, label=WRONG, config=wrong)


def vit_claims() -> Iterator[Claim]:
    """What is claimed of these rows."""
    yield words.early_lead("vit-early-lead", COSINE)
    end = points(COSINE, "best average", "sgd", phase="search", at=1.0, side="within", bound=0.5)
    yield words.before_the_end("vit-before-the-end", COSINE, end)
    yield claim(
        "vit-constant-reaches-cosine",
        "With a constant rate the average is at most half a point behind a cosine of equal length.",
        points(CONSTANT, "ema_acc_bn", "sgd", against_row=COSINE, phase="search", bound=-0.5),
    )
    yield claim(
        "vit-less-memorised",
        "The average memorises fewer wrong labels than the last iterate.",
        points(WRONG, "ema_loss_bn", "sgd", metric="memorised", side="below", phase="search"),
    )
    yield from words.at_equal_compute("vit", COSINE)
    yield from words.best_windows(
        "vit", COSINE, stop="_loss", phase="refit", where="where the average’s loss was lowest"
    )
    yield words.slow_is_harmless("vit-slow-is-harmless", COSINE)
