"""Averages of a vision transformer trained by AdamW: what the paper leaves open.

Five seeds at `small`, five hours on one core (measured: 1.9 ms to train on an image, 0.6 ms to
evaluate one). Windows are named by the share of the run that is their mean age.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from polyak.models import ModelConfig
from polyak.records.claims import Claim, Comparison
from polyak.study.paper.beyond import Size, claim, early_lead, nats, points, sized, study_of
from polyak.study.paper.datasets import title_of
from polyak.study.plan import Row, Study
from polyak.training.config import OptimConfig, RunConfig

NAME = "beyond-transformers"
_MODELS = {
    "small": ModelConfig(name="vit", width=64, depth=4),
    "tiny": ModelConfig(name="vit", width=32, depth=1),
}
_COSINE, _CONSTANT, _WRONG = "ViT, cosine", "ViT, constant rate", "ViT, wrong labels"


def beyond_transformers(scale: str | None, given: Mapping[str, str]) -> Study:
    """A ViT on CIFAR-10 by AdamW: cosine and constant rate, right labels and human ones.

    Raises:
        ConfigError: for a scale or a place of data that it does not have.
    """
    size = sized(NAME, scale, given)
    return study_of(
        NAME,
        scale or "",
        given,
        title="Averages of a vision transformer trained by AdamW",
        hours="five hours",
        rows=_rows(size, scale or "", given),
        claims=_claims(size.averages().names),
    )


def _rows(size: Size, scale: str, given: Mapping[str, str]) -> Iterator[Row]:
    config = RunConfig(
        data=size.data(given),
        model=_MODELS[scale],
        optim=OptimConfig(
            name="adamw", weight_decay=0.05, decayed="matrices", warmup_epochs=size.warmup_epochs
        ),
        averaging=size.averages(),
        epochs=size.epochs,
        batch_size=size.batch_size,
        keep="chosen",
    )
    row = Row(
        label=_COSINE,
        dataset=title_of("cifar10", given),
        architecture="ViT",
        config=config,
        learning_rates=(1e-3,),
        seeds=size.seeds,
        follow_ups=("annealed",),
    )
    yield row
    constant = replace(config, optim=replace(config.optim, schedule="constant"))
    yield replace(row, label=_CONSTANT, config=constant, follow_ups=(), against=_COSINE)
    wrong = replace(config, data=size.data(given, wrong=True))
    yield replace(row, label=_WRONG, config=wrong, follow_ups=(), against=_COSINE)


def _claims(averages: tuple[str, ...]) -> Iterator[Claim]:
    yield early_lead(_COSINE)
    yield claim(
        "before-the-end",
        "The average of lowest loss comes in the first nine tenths, and at the end the best "
        "average meets the last iterate.",
        Comparison(
            row=_COSINE,
            metric="epoch",
            arm="ema_loss",
            phase="search",
            side="below",
            bound=0.9,
            unit="share",
        ),
        points(_COSINE, "best average", "sgd", phase="search", at=1.0, side="within", bound=0.5),
    )
    yield claim(
        "constant-reaches-cosine",
        "With a constant rate the average is at most half a point behind a cosine of equal length.",
        points(_CONSTANT, "ema_acc_bn", "sgd", against_row=_COSINE, bound=-0.5),
    )
    yield claim(
        "less-memorised",
        "The average memorises fewer wrong labels than the last iterate.",
        points(_WRONG, "ema_loss_bn", "sgd", metric="memorised", side="below"),
    )
    yield from _at_equal_compute()
    yield claim(
        "short-window",
        "At half of the run the window of 1.3 % is better than that of 10 %, in hold-out loss.",
        nats(_COSINE, averages[1], averages[-1], phase="search", at=0.5),
    )
    yield claim(
        "slow-is-harmless",
        "Without BatchNorm a slow average needs nothing recomputed: over the middle half of the "
        "run the window of 10 % is at most half a point behind that of 0.6 %.",
        points(
            _COSINE,
            "longest average",
            "shortest average",
            phase="search",
            at=0.25,
            until=0.75,
            bound=-0.5,
        ),
    )


def _at_equal_compute() -> Iterator[Claim]:
    """Against the last iterate of a schedule that ends where the average was stopped."""
    annealed = {"against_phase": "annealed"}
    yield claim(
        "equal-compute",
        "The average is more accurate than the last iterate annealed in its budget.",
        points(_COSINE, "ema_acc_bn", "sgd", **annealed),
    )
    fewer = {"metric": "churn", "side": "below"}
    yield claim(
        "churn",
        "Two runs disagree less by their averages than by last iterates of equal compute.",
        points(_COSINE, "ema_loss_bn", "sgd", **fewer, **annealed),
        nats(_COSINE, "ema_loss_bn", "sgd", metric="js", **annealed),
    )
    better = {"metric": "ece", "side": "below"}
    yield claim(
        "calibration",
        "The average is better calibrated than the last iterate of equal compute.",
        points(_COSINE, "ema_loss_bn", "sgd", **better, **annealed),
    )
