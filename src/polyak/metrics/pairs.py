"""What every two of several runs differ in, with what is of one run alone computed once.

Shape suffixes: n samples, k classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from polyak.errors import DataError
from polyak.metrics.agreement import Agreement, agreement_of
from polyak.metrics.disagreement import Batches, batched, over_batches
from polyak.metrics.inputs import labelled_logits

_BATCH = 100
"""Samples a batch of `js_paper_code`, as the authors have it; few enough to stay in a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """What two runs differ in."""

    churn: float
    """As `churn` gives it."""

    js: float
    """As `js_divergence` gives it, in nats."""

    js_paper_code: float
    """As `js_paper_code` gives it."""

    agreement: Agreement
    """As `agreement` gives it."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One run's part in each of its pairs."""

    predicted_n: Tensor
    right_n: Tensor
    p_nk: Tensor
    entropy_n: Tensor
    batches: Batches


def differences(
    logits_by_run: Sequence[Tensor], labels_n: Tensor
) -> Iterator[tuple[tuple[int, int], Differences]]:
    """Churn, Jensen-Shannon divergence, the authors' number and agreement of every pair of runs.

        JS = H(½ (p + q)) − ½ (H(p) + H(q)),  H(p) = −Σ_j p_j ln p_j

    Args:
        logits_by_run: Outputs before softmax, one tensor of shape (n, k) a run, all for the same
            samples, finite.
        labels_n: Class numbers, shape (n,).

    Yields:
        The two runs' places, in the order (0, 1), (0, 2), …, (1, 2), …, and what they differ in.

    Raises:
        DataError: on wrong or different shapes or dtypes, non-finite logits, no samples.

    Example:
        >>> a, b = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]])
        >>> [(pair, found.churn) for pair, found in differences([a, b, a], torch.tensor([0]))]
        [((0, 1), 1.0), ((0, 2), 0.0), ((1, 2), 1.0)]
    """
    runs = [_prepared(logits_nk, labels_n) for logits_nk in logits_by_run]
    for place, run in enumerate(runs):
        if run.p_nk.shape != runs[0].p_nk.shape:
            raise DataError(
                f"the shape of logits of run {place} is {tuple(run.p_nk.shape)}; expected "
                f"{tuple(runs[0].p_nk.shape)} as of run 0. Compare runs on the same samples."
            )
    for first, second in combinations(range(len(runs)), 2):
        yield (first, second), _compared(runs[first], runs[second])


def _prepared(logits_nk: Tensor, labels_n: Tensor) -> _Run:
    wide_nk, long_n = labelled_logits(logits_nk, labels_n)
    p_nk = wide_nk.softmax(dim=1)
    predicted_n = wide_nk.argmax(dim=1)
    return _Run(
        predicted_n,
        predicted_n == long_n,
        p_nk,
        torch.special.entr(p_nk).sum(dim=1),
        batched(wide_nk, _BATCH),
    )


def _compared(a: _Run, b: _Run) -> Differences:
    return Differences(
        churn=(a.predicted_n != b.predicted_n).double().mean().item(),
        js=_divergence(a, b),
        js_paper_code=over_batches(a.batches, b.batches),
        agreement=agreement_of(a.predicted_n, b.predicted_n, a.right_n, b.right_n),
    )


def _divergence(a: _Run, b: _Run) -> float:
    found = []
    for p_nk, q_nk, of_both_n in zip(
        torch.split(a.p_nk, _BATCH),
        torch.split(b.p_nk, _BATCH),
        torch.split((a.entropy_n + b.entropy_n) / 2, _BATCH),
        strict=True,
    ):
        found.append(torch.special.entr((p_nk + q_nk).div_(2)).sum(dim=1) - of_both_n)
    # Rounding may leave a sample, and the mean, 1e-16 outside the range.
    mean: float = torch.cat(found).clamp_(0.0, math.log(2)).mean().item()
    return min(mean, math.log(2))
