"""Is it BatchNorm? A residual network with it, and the same with GroupNorm in its place.

Five seeds at `small`, 70 minutes on two cores (measured). One learning rate and one weight decay
for both, the best that plain training with BatchNorm had and as good as any with GroupNorm
(docs/results/2026-11-30-baselines). Claims compare weights of the same runs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from polyak.models import ModelConfig
from polyak.records.claims import Claim
from polyak.records.vocabulary import MORE_AVERAGES
from polyak.study.paper.beyond.claims import MIDDLE, claim, early_lead, points
from polyak.study.paper.beyond.sizes import IMAGES, study_of
from polyak.study.paper.datasets import title_of
from polyak.study.plan import Row, Study
from polyak.training.config import OptimConfig, RunConfig

NAME = "beyond-norm"
_MODELS = {
    "small": ModelConfig(name="resnet20", width=8),
    "tiny": ModelConfig(name="resnet8", width=8),
}
BATCH, _GROUP = "BatchNorm", "GroupNorm"


def beyond_norm(scale: str | None, given: Mapping[str, str]) -> Study:
    """ResNet-20 on CIFAR-10 with BatchNorm and with GroupNorm, nothing else changed.

    Raises:
        ConfigError: for a scale or a place of data that it does not have.
    """
    return study_of(
        NAME,
        scale,
        given,
        title="Is it BatchNorm? A residual network with it and with GroupNorm",
        hours="two and a half hours",
        rows=norm_rows,
        claims=_claims(),
    )


def norm_rows(scale: str, given: Mapping[str, str]) -> Iterator[Row]:
    """BatchNorm, with a recomputation after each epoch beside it, and GroupNorm.

    Args:
        scale: One of `SCALES`.
        given: What a user put in a place of data.
    """
    size = IMAGES[scale]
    config = RunConfig(
        data=size.data(given),
        model=_MODELS[scale],
        optim=OptimConfig(weight_decay=2e-3, warmup_epochs=size.warmup_epochs),
        averaging=size.averages(),
        # So that beyond-averages has the same runs.
        more_averages=MORE_AVERAGES,
        epochs=size.epochs,
        batch_size=size.batch_size,
        batchnorm_images=min(2_048, size.train_limit // 2),
        keep="chosen",
    )
    row = Row(
        label=BATCH,
        dataset=title_of("cifar10", given),
        architecture="ResNet-20 of width 8" if scale == "small" else "ResNet-8 of width 8",
        config=config,
        learning_rates=(0.1,),
        seeds=size.seeds,
        search_monitors=("holdout_bn",),
    )
    yield row
    model = replace(config.model, norm="group")
    group = replace(config, model=model, batchnorm_images=None, more_averages=())
    yield replace(row, label=_GROUP, config=group, search_monitors=(), against=BATCH)


def _claims() -> Iterator[Claim]:
    for row in (BATCH, _GROUP):
        yield early_lead(f"early-lead-{row.lower().removesuffix('norm')}", row)
    slow = ("longest average", "shortest average")
    yield claim(
        "slow-fails-batch",
        "With BatchNorm the longest window fails over the middle half of the run, and recomputed "
        "statistics bring it back.",
        points(BATCH, *slow, **MIDDLE, side="below", refuted_at=-1.0),
        points(
            BATCH,
            "longest average",
            "longest average",
            **MIDDLE,
            part="holdout_bn",
            against_part="holdout",
            refuted_at=1.0,
        ),
    )
    yield claim(
        "slow-is-harmless-group",
        "With GroupNorm the longest window is at most half a point behind the shortest over the "
        "middle half of the run, and nothing is recomputed.",
        points(_GROUP, *slow, **MIDDLE, bound=-0.5),
    )
    yield claim(
        "gains-batch",
        "With BatchNorm the average beats every arm of SGD in test accuracy.",
        points(BATCH, "ema_acc_bn", "best of sgd"),
    )
    yield claim(
        "gains-group",
        "With GroupNorm the average beats every arm of SGD in test accuracy.",
        points(_GROUP, "ema_acc_bn", "best of sgd"),
    )
