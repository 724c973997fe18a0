"""From what weights say about training images to labels that are probably wrong.

Shape suffixes: n samples, k classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from polyak.metrics import (
    Estimate,
    auroc_difference,
    auroc_interval,
    best_other,
    margins,
    precision_at,
    sample_divergences,
    sample_losses,
)
from polyak.records.predictions import Predictions
from polyak.records.vocabulary import BASELINE

Part = Literal["all", "train", "holdout"]
Kind = Literal["margin", "loss", "disagreement"]
Verdict = Literal["better", "worse", "undecided"]
SHARES = (0.01, 0.05)
"""Lengths of the lists whose precision is taken, as shares of the samples."""

FEWEST = 20
"""Samples of each kind below which DeLong's interval means little, and none is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One training label and what is said of it. Classes are numbers."""

    rank: int
    """From 1, the most doubtful."""

    index: int
    """Place of the image in the data set's whole training set."""

    part: Literal["train", "holdout"]
    """Whether the weights were trained on the image, or it was held out."""

    given: int
    suggested: int | None
    """The class that the average prefers; None where it prefers the given one."""

    margin: float
    """ln p(given) − ln p(best other class), in nats, by the average."""

    p_given: float
    """Probability of the given label by the average."""

    p_other: float
    """Probability of the best other class."""

    sgd: int
    """The class that SGD's last weights prefer."""

    divergence: float
    """Jensen-Shannon divergence of the average and SGD's last weights, in nats."""

    clean: int | None
    """The label before noise; None where nobody knows it."""

    @property
    def wrong(self) -> bool | None:
        """Whether the given label is wrong, where that is known."""
        return None if self.clean is None else self.clean != self.given


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """How well a score finds the wrong labels of a part."""

    kind: Kind
    arm: str
    """The weights that the score is of; for "disagreement" the average that SGD is compared to."""

    part: Part
    samples: int
    wrong: int
    """Labels that are wrong."""

    auroc: Estimate
    difference: Estimate | None
    """AUROC minus that of SGD's loss at the last epoch; None for that itself."""

    precision: tuple[tuple[int, float], ...]
    """Length of the list and share of wrong labels on it: `SHARES` of the samples, and as many
    as are wrong."""


@dataclass(frozen=True, slots=True)
class _Samples:
    """Everything about the samples of some parts, in one order."""

    part: tuple[Literal["train", "holdout"], ...]
    given_n: Tensor
    clean_n: Tensor
    index_n: Tensor
    logits: dict[str, Tensor]
    """(n, k) by arm."""


def audit_rows(predictions: Predictions, *, average: str) -> list[AuditRow]:
    """All labels, by rising margin of an average: the most doubtful first.

    Args:
        predictions: Logits of arms on training and, if there is one, hold-out images.
        average: The arm that ranks; `BASELINE` must be there too.
    """
    samples = _samples(predictions, "all")
    logits_nk, sgd_nk = samples.logits[average], samples.logits[BASELINE]
    margin_n = margins(logits_nk, samples.given_n)
    other_n = best_other(logits_nk, samples.given_n)
    p_nk = logits_nk.double().softmax(dim=1)
    order_n = margin_n.argsort(stable=True)
    columns = {
        "index": samples.index_n,
        "given": samples.given_n,
        "suggested": other_n,
        "margin": margin_n,
        "p_given": p_nk.gather(1, samples.given_n[:, None])[:, 0],
        "p_other": p_nk.gather(1, other_n[:, None])[:, 0],
        "sgd": sgd_nk.argmax(dim=1),
        "divergence": sample_divergences(logits_nk, sgd_nk),
        "clean": samples.clean_n,
    }
    lists = [column_n[order_n].tolist() for column_n in columns.values()]
    parts = [samples.part[place] for place in order_n.tolist()]
    known = truth_is_known(predictions)
    rows = []
    for rank, (part, *values) in enumerate(zip(parts, *lists, strict=True), start=1):
        row = AuditRow(rank=rank, part=part, **dict(zip(columns, values, strict=True)))
        suggested = row.suggested if row.margin < 0 else None
        rows.append(replace(row, suggested=suggested, clean=row.clean if known else None))
    return rows


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often an average prefers one class where another is given."""

    given: int
    suggested: int
    count: int
    wrong: int | None
    """How many of these labels are wrong, where that is known."""


def confusions(rows: Sequence[AuditRow], *, limit: int = 10) -> list[Confusion]:
    """The most frequent pairs of given and suggested class, the most frequent first."""
    pairs = Counter((row.given, row.suggested) for row in rows if row.suggested is not None)
    wrong = Counter((row.given, row.suggested) for row in rows if row.wrong)
    known = any(row.clean is not None for row in rows)
    return [
        Confusion(given, suggested, count, wrong[given, suggested] if known else None)
        for (given, suggested), count in pairs.most_common(limit)
        if suggested is not None
    ]


def truth_is_known(predictions: Predictions) -> bool:
    """Whether some label is known to be wrong: labels were made noisy, or read from a file."""
    samples = _samples(predictions, "all")
    return bool((samples.given_n != samples.clean_n).any())


def score_results(predictions: Predictions, *, average: str) -> list[ScoreResult]:
    """How well every score finds the wrong labels: all samples, trained on, and held out.

    Scores are the negative margin and the loss of every arm, and the disagreement of the average
    with SGD's last weights. Parts with too few right or wrong labels are left out, and all are
    where the clean labels are not known.
    """
    parts: list[Part] = ["all", "train", "holdout"] if "holdout" in predictions else ["all"]
    found = []
    for part in parts:
        samples = _samples(predictions, part)
        wrong_n = samples.given_n != samples.clean_n
        if min(int(wrong_n.sum()), int((~wrong_n).sum())) >= FEWEST:
            found += _part_results(part, samples, wrong_n, average)
    return found


def verdict(results: Sequence[ScoreResult], *, average: str, part: Part = "all") -> Verdict | None:
    """Whether the average's margin finds wrong labels better than SGD's last loss.

    "undecided" if the 95 % interval of the difference of AUROCs holds 0; None where there is no
    such result.
    """
    for result in results:
        if (result.kind, result.arm, result.part) == ("margin", average, part):
            difference = result.difference
            assert difference is not None
            if difference.low > 0:
                return "better"
            return "worse" if difference.high < 0 else "undecided"
    return None


def _part_results(
    part: Part, samples: _Samples, wrong_n: Tensor, average: str
) -> list[ScoreResult]:
    given_n, logits = samples.given_n, samples.logits
    baseline_n = sample_losses(logits[BASELINE], given_n)
    scores: dict[tuple[Kind, str], Tensor] = {}
    for arm in sorted(logits, key=lambda name: (name != average, name == BASELINE)):
        scores["margin", arm] = -margins(logits[arm], given_n)
        scores["loss", arm] = sample_losses(logits[arm], given_n)
    scores["disagreement", average] = sample_divergences(logits[average], logits[BASELINE])
    n, wrong = len(wrong_n), int(wrong_n.sum())
    lengths = [*(max(1, round(share * n)) for share in SHARES), wrong]
    return [
        ScoreResult(
            kind=kind,
            arm=arm,
            part=part,
            samples=n,
            wrong=wrong,
            auroc=auroc_interval(score_n, wrong_n),
            difference=None
            if (kind, arm) == ("loss", BASELINE)
            else auroc_difference(score_n, baseline_n, wrong_n),
            precision=tuple((k, precision_at(score_n, wrong_n, k)) for k in lengths),
        )
        for (kind, arm), score_n in scores.items()
    ]


def _samples(predictions: Predictions, part: Part) -> _Samples:
    both: tuple[Literal["train", "holdout"], ...] = ("train", "holdout")
    chosen = [name for name in both if name in predictions and part in ("all", name)]
    given_n, clean_n, index_n = (
        torch.cat([predictions.labels_n(name, kind) for name in chosen])
        for kind in ("given", "clean", "index")
    )
    return _Samples(
        part=tuple(
            name for name in chosen for _ in range(len(predictions.labels_n(name, "given")))
        ),
        given_n=given_n,
        clean_n=clean_n,
        index_n=index_n,
        logits={
            arm: torch.cat([predictions.logits_nk(name, arm) for name in chosen])
            for arm in predictions.arms("train")
        },
    )
