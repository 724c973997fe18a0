"""How much two runs of one recipe differ in what they predict.

Shape suffixes: n samples, k classes.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from polyak.errors import ConfigError, DataError
from polyak.metrics.inputs import paired_logits


def churn(logits_a_nk: Tensor, logits_b_nk: Tensor) -> float:
    """Fraction of samples for which two models predict different classes.

        churn = (1/n) Σ_i 1[argmax_j a_ij ≠ argmax_j b_ij]

    Args:
        logits_a_nk: Outputs of one model before softmax, shape (n, k), finite.
        logits_b_nk: Outputs of the other for the same samples, same shape.

    Returns:
        A fraction in [0, 1].

    Raises:
        DataError: on wrong or different shapes, wrong dtypes, non-finite logits, no samples.

    Source:
        The paper, section 4.4.

    Example:
        >>> churn(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[9.0, 1.0], [1.0, 0.0]]))
        0.5
    """
    a_nk, b_nk = paired_logits(logits_a_nk, logits_b_nk, argmax_only=True)
    return (a_nk.argmax(dim=1) != b_nk.argmax(dim=1)).double().mean().item()


def js_divergence(logits_a_nk: Tensor, logits_b_nk: Tensor) -> float:
    """Mean Jensen-Shannon divergence between two models' class probabilities.

        JS = ½ KL(p‖m) + ½ KL(q‖m),  m = ½ (p + q)

    Args:
        logits_a_nk: Outputs of one model before softmax, shape (n, k), finite.
        logits_b_nk: Outputs of the other for the same samples, same shape.

    Returns:
        Nats, in [0, ln 2]. The squared Jensen-Shannon distance of other libraries.

    Raises:
        DataError: on wrong or different shapes, wrong dtypes, non-finite logits, no samples.

    Source:
        Lin 1991, as the paper's text defines it. The published numbers are of something else:
        `js_paper_code`.

    Example:
        >>> certain = torch.tensor([[1000.0, 0.0]])
        >>> round(js_divergence(certain, -certain), 4)  # ln 2
        0.6931
    """
    mean: float = sample_divergences(logits_a_nk, logits_b_nk).mean().item()
    # Rounding may leave the mean 1e-16 outside the range.
    return min(mean, math.log(2))


def sample_divergences(logits_a_nk: Tensor, logits_b_nk: Tensor) -> Tensor:
    """Jensen-Shannon divergence of each sample by itself; `js_divergence` is the mean.

    Arguments and errors as there.

    Returns:
        Nats in [0, ln 2], float64, shape (n,).
    """
    a_nk, b_nk = paired_logits(logits_a_nk, logits_b_nk)
    # Logarithms throughout: a probability that underflows to 0 still has a finite logarithm.
    log_p_nk, log_q_nk = a_nk.log_softmax(dim=1), b_nk.log_softmax(dim=1)
    log_m_nk = torch.logaddexp(log_p_nk, log_q_nk) - math.log(2)
    kl_p_n = (log_p_nk.exp() * (log_p_nk - log_m_nk)).sum(dim=1)
    kl_q_n = (log_q_nk.exp() * (log_q_nk - log_m_nk)).sum(dim=1)
    return ((kl_p_n + kl_q_n) / 2).clamp(0.0, math.log(2))


def js_paper_code(logits_a_nk: Tensor, logits_b_nk: Tensor, *, batch_size: int = 100) -> float:
    """What the paper's authors' code prints as JS divergence. It is not a JS divergence.

        value = mean over batches of (1/B) Σ_j ½ [KL(m_j‖p_j) + KL(m_j‖q_j)],  m_j = ½ (p_j + q_j)

    It differs in two ways. The softmax runs over the samples of a batch instead of over the
    classes, so p_j is a distribution over B samples, one for each class j; and KL has its
    arguments swapped. The value grows with the number of classes over the batch size, depends
    on how samples fall into batches, and may exceed ln 2. For comparison with published numbers
    only.

    Args:
        logits_a_nk: Outputs of one model before softmax, shape (n, k), finite.
        logits_b_nk: Outputs of the other for the same samples, same shape.
        batch_size: Samples a batch B, in the order given; a short last batch counts as one.

    Returns:
        A number that is at least 0 up to the constant 1e-8 that the authors add to p and q.

    Raises:
        DataError: on wrong or different shapes, wrong dtypes, non-finite logits, no samples.
        ConfigError: unless batch_size >= 1.

    Source:
        The authors' code. Ours computes in float64.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> js_paper_code(logits, logits + torch.tensor([[1.0], [0.0]])) > 0.01  # true JS: 0
        True
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}; expected >= 1. The authors use 100.")
    a_nk, b_nk = paired_logits(logits_a_nk, logits_b_nk)
    return over_batches(batched(a_nk, batch_size), batched(b_nk, batch_size))


def pairwise(
    metric: Callable[[Tensor, Tensor], float], logits_by_run: Sequence[Tensor]
) -> list[float]:
    """The metric of every unordered pair of runs.

    Args:
        metric: `churn`, `js_divergence` or another function of two logits.
        logits_by_run: One tensor a run, all for the same samples; at least two.

    Returns:
        R·(R − 1)/2 values for R runs, in the order (0, 1), (0, 2), …, (1, 2), …. They share runs,
        so they are not independent: no interval of independent values fits them.

    Raises:
        DataError: if there are fewer than two runs.

    Example:
        >>> a, b = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]])
        >>> pairwise(churn, [a, b, a])
        [1.0, 0.0, 1.0]
    """
    if len(logits_by_run) < 2:
        raise DataError(
            f"the number of runs is {len(logits_by_run)}; expected at least 2. "
            "Disagreement needs a second run with another seed."
        )
    return [metric(a, b) for a, b in combinations(logits_by_run, 2)]


Batches = list[tuple[Tensor, Tensor]]
"""Softmax over the samples of each batch, and its logarithm: one model's part in `over_batches`."""


def batched(wide_nk: Tensor, batch_size: int) -> Batches:
    """A model's logits, as `over_batches` takes them."""
    p_of_batches = [x_nk.softmax(dim=0) for x_nk in torch.split(wide_nk, batch_size)]
    return [(p_nk, (p_nk + 1e-8).log()) for p_nk in p_of_batches]


def over_batches(a: Batches, b: Batches) -> float:
    """`js_paper_code` of two models' batches."""
    found = []
    for (p_nk, log_p_nk), (q_nk, log_q_nk) in zip(a, b, strict=True):
        m_nk = (p_nk + q_nk) / 2
        inside_nk = torch.xlogy(m_nk, m_nk) - m_nk * ((log_p_nk + log_q_nk) / 2)
        found.append(inside_nk.sum() / len(m_nk))
    return torch.stack(found).mean().item()
