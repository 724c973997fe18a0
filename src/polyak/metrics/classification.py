"""How often a classifier is right, and how good its probabilities are.

Shape suffixes: n samples, k classes.
"""

import torch.nn.functional as F
from torch import Tensor

from polyak.metrics.inputs import labelled_logits


def accuracy(logits_nk: Tensor, labels_n: Tensor) -> float:
    """Fraction of samples whose largest logit is that of the label.

        accuracy = (1/n) Σ_i 1[argmax_j z_ij = y_i]

    Args:
        logits_nk: Outputs before softmax, shape (n, k), finite.
        labels_n: Class numbers, shape (n,), in 0 … k − 1.

    Returns:
        A fraction in [0, 1]. Among equal largest logits the first class is the prediction.

    Raises:
        DataError: on wrong shapes or dtypes, labels out of range, non-finite logits, no samples.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        0.5
    """
    wide_nk, long_n = labelled_logits(logits_nk, labels_n, argmax_only=True)
    return (wide_nk.argmax(dim=1) == long_n).double().mean().item()


def cross_entropy(logits_nk: Tensor, labels_n: Tensor) -> float:
    """Mean negative log probability of the labels.

        CE = −(1/n) Σ_i ln softmax(z_i)[y_i]

    Args:
        logits_nk: Outputs before softmax, shape (n, k), finite.
        labels_n: Class numbers, shape (n,), in 0 … k − 1.

    Returns:
        Nats a sample, in [0, ∞).

    Raises:
        DataError: on wrong shapes or dtypes, labels out of range, non-finite logits, no samples.

    Example:
        >>> import torch
        >>> round(cross_entropy(torch.zeros(1, 10), torch.tensor([3])), 4)  # ln 10
        2.3026
    """
    wide_nk, long_n = labelled_logits(logits_nk, labels_n)
    return F.cross_entropy(wide_nk, long_n).item()


def brier(logits_nk: Tensor, labels_n: Tensor) -> float:
    """Mean squared distance between the probabilities and the label's corner of the simplex.

        Brier = (1/n) Σ_i Σ_j (softmax(z_i)[j] − 1[j = y_i])²

    Args:
        logits_nk: Outputs before softmax, shape (n, k), finite.
        labels_n: Class numbers, shape (n,), in 0 … k − 1.

    Returns:
        A number in [0, 2].

    Raises:
        DataError: on wrong shapes or dtypes, labels out of range, non-finite logits, no samples.

    Source:
        Brier 1950, the sum over all classes. For two classes others count one of them only,
        which is half of ours.

    Example:
        >>> import torch
        >>> brier(torch.zeros(1, 2), torch.tensor([0]))
        0.5
    """
    wide_nk, long_n = labelled_logits(logits_nk, labels_n)
    error_nk = wide_nk.softmax(dim=1) - F.one_hot(long_n, wide_nk.shape[1])
    return error_nk.square().sum(dim=1).mean().item()
