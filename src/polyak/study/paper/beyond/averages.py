"""EMA, SWA, LAWA and power-function averages of the same runs, on ResNet-20, a ViT and a GPT.

The runs are those of `beyond-norm` and `beyond-transformers`, and in one output folder they are
trained once: after both, 21 minutes on two cores (measured), alone five hours on one (estimated).
Nothing is chosen on what it is judged by: moments on the hold-out, models of all data on the test
set.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from polyak.records.claims import BEST_OF_SGD, Claim
from polyak.study.paper.beyond.claims import claim, nats
from polyak.study.paper.beyond.gpt import COSINE as GPT
from polyak.study.paper.beyond.gpt import gpt_rows
from polyak.study.paper.beyond.norm import norm_rows
from polyak.study.paper.beyond.sizes import study_of
from polyak.study.paper.beyond.vit import COSINE as VIT
from polyak.study.paper.beyond.vit import vit_rows
from polyak.study.plan import Row, Study

NAME = "beyond-averages"
RESNET = "ResNet-20"
EQUAL = 0.01
"""Nats within which two averages count as one: the smallest effect of interest."""
_AT_THE_END = {"swa": "SWA", "lawa": "LAWA", "power": "The power-function average"}


def beyond_averages(scale: str | None, given: Mapping[str, str]) -> Study:
    """Averages of several kinds at equal compute, with what each costs in evaluations.

    Raises:
        ConfigError: for a scale or a place of data that it does not have.
    """
    return study_of(
        NAME,
        scale,
        given,
        title="EMA, SWA, LAWA and power-function averages at equal compute",
        hours="five hours",
        rows=_rows,
        claims=(
            *_claims("resnet", RESNET),
            *_claims("vit", VIT),
            *_claims("gpt", GPT),
        ),
    )


def _rows(scale: str, given: Mapping[str, str]) -> Iterator[Row]:
    """The first row of each study, with SGD annealed in the average's budget."""
    batchnorm = next(norm_rows(scale, given))
    yield replace(batchnorm, label=RESNET, follow_ups=("annealed",))
    yield next(vit_rows(scale, given))
    yield next(gpt_rows(scale))


def _claims(name: str, row: str) -> Iterator[Claim]:
    """What costs nothing beside training, what evaluations buy, and whether the kind matters."""
    for average, words in _AT_THE_END.items():
        yield claim(
            f"{name}-{average}-for-nothing",
            f"{row}: {words} at the end of the run, with nothing tuned and nothing evaluated, has "
            "a lower test loss than every arm of plain training.",
            nats(row, f"{average}_bn", BEST_OF_SGD),
        )
    yield claim(
        f"{name}-evaluations-pay",
        f"{row}: the EMA whose moment a hold-out chose has a lower test loss than SWA, which "
        "needs none.",
        nats(row, "ema_loss_bn", "swa_bn"),
    )
    yield claim(
        f"{name}-kinds-are-equal",
        f"{row}: at the moment chosen for the EMA, LAWA and the power-function average are within "
        f"{EQUAL} nats of it.",
        *(
            nats(row, f"{other}_loss_bn", "ema_loss_bn", side="within", bound=EQUAL)
            for other in ("lawa", "power")
        ),
    )
