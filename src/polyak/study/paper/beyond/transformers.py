"""Averages of transformers: a ViT on images, a GPT on bytes, which the paper leaves open.

One study, so that one page answers; `--rows GPT` and `--rows ViT` are its halves, each with the
claims that are about it, since one takes hours and the other does not.
"""

from collections.abc import Mapping

from polyak.study.paper.beyond.gpt import gpt_claims, gpt_rows
from polyak.study.paper.beyond.sizes import study_of
from polyak.study.paper.beyond.vit import vit_claims, vit_rows
from polyak.study.plan import Study

NAME = "beyond-transformers"


def beyond_transformers(scale: str | None, given: Mapping[str, str]) -> Study:
    """A ViT on CIFAR-10 by AdamW, and a GPT on bytes by AdamW and Muon.

    Raises:
        ConfigError: for a scale or a place of data that it does not have.
    """
    return study_of(
        NAME,
        scale,
        given,
        title="Averages of transformers: a ViT on images and a GPT on bytes",
        hours="four hours",
        rows=lambda scale, given: (*vit_rows(scale, given), *gpt_rows(scale)),
        claims=(*vit_claims(), *gpt_claims()),
    )
