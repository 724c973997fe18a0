"""What a classifier says about each sample by itself: how well its label fits.

Shape suffixes: n samples, k classes.
"""

import torch
from torch import Tensor

from polyak.metrics.inputs import labelled_logits


def margins(logits_nk: Tensor, labels_n: Tensor) -> Tensor:
    """By how much the label is more probable than the best other class, on a log scale.

        margin_i = ln p_i[y_i] − max_{j ≠ y_i} ln p_i[j] = z_i[y_i] − max_{j ≠ y_i} z_i[j]

    Args:
        logits_nk: Outputs before softmax, shape (n, k), finite.
        labels_n: Class numbers, shape (n,), in 0 … k − 1.

    Returns:
        Nats, float64, shape (n,): negative where the classifier prefers another class.

    Raises:
        DataError: on wrong shapes or dtypes, labels out of range, non-finite logits, no samples.

    Source:
        The margin of Pleiss et al. 2020 ("AUM"), of one set of weights.

    Example:
        >>> margins(torch.tensor([[2.0, 0.5], [0.0, 3.0]]), torch.tensor([0, 0])).tolist()
        [1.5, -3.0]
    """
    wide_nk, long_n = labelled_logits(logits_nk, labels_n)
    own_n = wide_nk.gather(1, long_n[:, None])[:, 0]
    return own_n - _others(wide_nk, long_n).amax(dim=1)


def best_other(logits_nk: Tensor, labels_n: Tensor) -> Tensor:
    """The most probable class that is not the label, int64, shape (n,).

    Arguments and errors as for `margins`.

    Example:
        >>> best_other(torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
        [2]
    """
    return _others(*labelled_logits(logits_nk, labels_n)).argmax(dim=1)


def sample_losses(logits_nk: Tensor, labels_n: Tensor) -> Tensor:
    """Negative log probability of each sample's label, in nats, float64, shape (n,).

        loss_i = −ln softmax(z_i)[y_i]

    Arguments and errors as for `margins`.

    Example:
        >>> [round(x, 4) for x in sample_losses(torch.zeros(1, 10), torch.tensor([3])).tolist()]
        [2.3026]
    """
    wide_nk, long_n = labelled_logits(logits_nk, labels_n)
    # Not log_softmax: it rounds the loss of a sure sample to 0, and sure samples to ties.
    odds_nk = _others(wide_nk, long_n) - wide_nk.gather(1, long_n[:, None])
    log_odds_n = odds_nk.logsumexp(dim=1)
    return torch.logaddexp(torch.zeros_like(log_odds_n), log_odds_n)


def _others(wide_nk: Tensor, long_n: Tensor) -> Tensor:
    """The logits without those of the labels."""
    return wide_nk.scatter(1, long_n[:, None], float("-inf"))
