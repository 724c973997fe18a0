"""Where two runs agree and where they do not, by who is right.

Shape suffixes: n samples, k classes.
"""

from dataclasses import dataclass

from torch import Tensor

from polyak.metrics.inputs import labelled_logits, paired_logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Shares of the samples; the first three add up to 1, flipped + differently_wrong is churn."""

    both_right: float
    flipped: float
    """One model is right and the other is not."""

    both_wrong: float
    differently_wrong: float
    """Both are wrong, with different classes: a part of `both_wrong`."""


def agreement(logits_a_nk: Tensor, logits_b_nk: Tensor, labels_n: Tensor) -> Agreement:
    """Churn, taken apart by who is right.

        both right:  a_i = y_i and b_i = y_i      flipped:  (a_i = y_i) ≠ (b_i = y_i)
        both wrong:  a_i ≠ y_i and b_i ≠ y_i      differently wrong:  and a_i ≠ b_i too

    Args:
        logits_a_nk: Outputs of one model before softmax, shape (n, k), finite.
        logits_b_nk: Outputs of the other for the same samples, same shape.
        labels_n: Class numbers, shape (n,).

    Returns:
        Fractions in [0, 1].

    Raises:
        DataError: on wrong or different shapes or dtypes, non-finite logits, no samples.

    Source:
        Ours. A more accurate model has fewer samples to disagree on, so its churn can fall
        although it is no steadier; flipped samples alone cost a user a right answer.

    Example:
        >>> import torch
        >>> a = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
        >>> b = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
        >>> agreement(a, b, torch.tensor([0, 1]))
        Agreement(both_right=0.0, flipped=0.5, both_wrong=0.5, differently_wrong=0.5)
    """
    a_nk, b_nk = paired_logits(logits_a_nk, logits_b_nk, argmax_only=True)
    _, long_n = labelled_logits(a_nk, labels_n, argmax_only=True)
    a_n, b_n = a_nk.argmax(dim=1), b_nk.argmax(dim=1)
    return agreement_of(a_n, b_n, a_n == long_n, b_n == long_n)


def agreement_of(a_n: Tensor, b_n: Tensor, right_a_n: Tensor, right_b_n: Tensor) -> Agreement:
    """`agreement` of predicted classes, and whether each is right."""
    wrong_n = ~(right_a_n | right_b_n)

    def share(chosen_n: Tensor) -> float:
        return chosen_n.double().mean().item()

    return Agreement(
        both_right=share(right_a_n & right_b_n),
        flipped=share(right_a_n != right_b_n),
        both_wrong=share(wrong_n),
        differently_wrong=share(wrong_n & (a_n != b_n)),
    )
