"""How well a score ranks the samples that are sought above the others.

Shape suffixes: n samples, p positive samples, q negative ones.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from polyak.errors import ConfigError, DataError
from polyak.metrics.inputs import check_tensors


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its confidence interval over samples."""

    value: float
    low: float
    high: float


def auroc(scores_n: Tensor, positive_n: Tensor) -> float:
    """Probability that a positive sample scores above a negative one; ties count half.

        AUROC = (1/pq) Σ_{i positive} Σ_{j negative} (1[s_i > s_j] + ½ 1[s_i = s_j])

    Args:
        scores_n: Scores, shape (n,), finite. More means more likely positive.
        positive_n: Whether each sample is what is sought, bool, shape (n,).

    Returns:
        A fraction in [0, 1]; ½ for scores that say nothing.

    Raises:
        DataError: on wrong shapes or dtypes, NaN, or if one of the two kinds is missing.

    Source:
        Mann and Whitney 1947, by midranks.

    Example:
        >>> auroc(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, True]))
        1.0
    """
    above_p, _ = _placements(scores_n, positive_n)
    return above_p.mean().item()


def auroc_interval(scores_n: Tensor, positive_n: Tensor, *, level: float = 0.95) -> Estimate:
    """AUROC with DeLong's confidence interval, on the logit scale so that it stays in [0, 1].

        logit(A) ± z · √var(A) / (A (1 − A)),  var(A) = var_i(above_i)/p + var_j(below_j)/q

    It is over draws of samples, for one given model: what another training would give it does
    not know.

    Args:
        scores_n: Scores, shape (n,), finite. More means more likely positive.
        positive_n: Whether each sample is what is sought, bool, shape (n,), two of each at least.
        level: Coverage of the interval, a fraction in (0, 1).

    Raises:
        DataError: on wrong shapes or dtypes, NaN, or with fewer than two of a kind.
        ConfigError: if `level` is outside (0, 1).

    Source:
        DeLong, DeLong and Clarke-Pearson 1988; the logit scale after Pepe 2003.
    """
    z = _quantile(level)
    above_p, below_q = _placements(scores_n, positive_n)
    a, sd = above_p.mean().item(), _spread(above_p, below_q)
    if sd == 0 or a in (0.0, 1.0):
        return Estimate(a, a, a)
    half = z * sd / (a * (1 - a))
    centre = math.log(a / (1 - a))
    return Estimate(a, _sigmoid(centre - half), _sigmoid(centre + half))


def auroc_difference(
    ours_n: Tensor, baseline_n: Tensor, positive_n: Tensor, *, level: float = 0.95
) -> Estimate:
    """AUROC of one score minus that of another on the same samples, with DeLong's interval.

        Δ ± z · √(var(A) + var(B) − 2 cov(A, B))

    Positive: ours ranks better. Arguments and errors as for `auroc_interval`.

    Source:
        DeLong, DeLong and Clarke-Pearson 1988.
    """
    z = _quantile(level)
    ours_p, ours_q = _placements(ours_n, positive_n)
    theirs_p, theirs_q = _placements(baseline_n, positive_n)
    difference = (ours_p - theirs_p).mean().item()
    half = z * _spread(ours_p - theirs_p, ours_q - theirs_q)
    return Estimate(difference, difference - half, difference + half)


def precision_at(scores_n: Tensor, positive_n: Tensor, k: int) -> float:
    """Fraction of the k samples of highest score that are positive.

    Among samples that tie at the end of the list each is equally likely to be on it.

    Args:
        scores_n: Scores, shape (n,), finite.
        positive_n: Whether each sample is what is sought, bool, shape (n,).
        k: Length of the list, 1 to n.

    Raises:
        DataError: on wrong shapes or dtypes, or NaN.
        ConfigError: if k is outside 1 to n.

    Example:
        >>> scores = torch.tensor([3.0, 1.0, 2.0, 2.0])
        >>> precision_at(scores, torch.tensor([True, False, False, True]), 2)
        0.75
    """
    wide_n = _checked(scores_n, positive_n)
    if not 1 <= k <= len(wide_n):
        raise ConfigError(f"k is {k!r}; expected 1 to {len(wide_n)}, the number of samples.")
    last = wide_n.topk(k).values[-1]
    above_n, tied_n = wide_n > last, wide_n == last
    places = k - int(above_n.sum())
    share = positive_n[tied_n].double().mean().item()
    return (int(positive_n[above_n].sum()) + places * share) / k


def _spread(above_p: Tensor, below_q: Tensor) -> float:
    """DeLong's standard error of an AUROC, or of a difference of two, from its placements."""
    p, q = len(above_p), len(below_q)
    if p < 2 or q < 2:
        raise DataError(
            f"the numbers of positive and negative samples are {p} and {q}; expected at least 2 "
            "of each. An interval needs more samples."
        )
    return math.sqrt(float(above_p.var() / p + below_q.var() / q))


def _placements(scores_n: Tensor, positive_n: Tensor) -> tuple[Tensor, Tensor]:
    """Share of negatives under each positive, and of positives over each negative, ties half."""
    wide_n = _checked(scores_n, positive_n)
    positive_p, negative_q = wide_n[positive_n], wide_n[~positive_n]
    if not len(positive_p) or not len(negative_q):
        raise DataError(
            f"the numbers of positive and negative samples are {len(positive_p)} and "
            f"{len(negative_q)}; expected at least one of each. There is nothing to rank."
        )
    return _share_under(positive_p, negative_q), 1 - _share_under(negative_q, positive_p)


def _share_under(values: Tensor, others: Tensor) -> Tensor:
    """For each value the share of the others that are smaller, equal ones counting half."""
    ordered = others.sort().values
    under = torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)
    return under.double() / (2 * len(others))


def _checked(scores_n: Tensor, positive_n: Tensor) -> Tensor:
    check_tensors(scores=scores_n, positives=positive_n)
    if scores_n.ndim != 1 or scores_n.shape != positive_n.shape or not len(scores_n):
        raise DataError(
            f"the shapes of scores and positives are {tuple(scores_n.shape)} and "
            f"{tuple(positive_n.shape)}; expected (n,) for both. Give one of each for a sample."
        )
    if positive_n.dtype != torch.bool:
        raise DataError(f"the dtype of positives is {positive_n.dtype}; expected torch.bool.")
    wide_n = scores_n.detach().double()
    if not wide_n.isfinite().all():
        raise DataError("the scores hold NaN or infinity; expected finite numbers.")
    return wide_n


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ConfigError(f"level is {level!r}; expected 0 < level < 1. Write 95 % as 0.95.")
    return NormalDist().inv_cdf((1 + level) / 2)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
