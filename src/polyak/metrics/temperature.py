"""Temperature scaling: one number that makes a classifier less, or more, sure of itself.

Shape suffixes: n samples, k classes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from polyak.errors import ConfigError
from polyak.metrics.inputs import labelled_logits

_TOLERANCE = 1e-9
"""Of log T, so of T relatively. Stricter than the promised 1e-6, at the cost of one step more."""


def fit_temperature(
    logits_nk: Tensor, labels_n: Tensor, *, bounds: tuple[float, float] = (1e-3, 1e3)
) -> float:
    """The temperature T that minimises the cross-entropy of softmax(logits / T).

        T* = argmin_T  −(1/n) Σ_i ln softmax(z_i / T)[y_i]

    The objective is convex in 1/T, so there is one minimum; it is found by Newton's method on
    log T inside a bracket.

    Args:
        logits_nk: Outputs before softmax on the hold-out, shape (n, k), finite.
        labels_n: Class numbers, shape (n,), in 0 … k − 1.
        bounds: Lowest and highest T to consider, 0 < lowest < highest.

    Returns:
        T within `bounds`, converged to 1e-6 relatively. Divide the logits by it. Three cases have
        no minimum inside: every sample right (the surer the better) gives the lowest T; labels
        that get no more than an average logit (the flatter the better) give the highest; logits
        without any difference between classes, where T has no effect, give 1.

    Raises:
        DataError: on wrong shapes or dtypes, labels out of range, non-finite logits, no samples.
        ConfigError: if `bounds` are not as above.

    Source:
        Guo et al. 2017. The solver is ours.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 4)  # 2 / ln 3
        1.8205
    """
    lowest, highest = bounds
    if not 0 < lowest < highest < math.inf:
        raise ConfigError(
            f"bounds is {bounds!r}; expected 0 < lowest < highest. "
            "The default (0.001, 1000) suits logits of any trained model."
        )
    margin_nk = _margins(*labelled_logits(logits_nk, labels_n))
    if not margin_nk.any():
        return 1.0
    low, high = -math.log(highest), -math.log(lowest)
    # An exact 0 here is an underflow: the loss of samples that are all right has gone flat.
    if _derivatives(margin_nk, math.exp(high))[0] <= 0:
        return lowest
    if _derivatives(margin_nk, math.exp(low))[0] >= 0:
        return highest
    return math.exp(-_root(margin_nk, low, high))


def fit_temperature_paper_code(logits_nk: Tensor, labels_n: Tensor) -> float:
    """The temperature that the paper's authors' code finds. It has not converged.

    One call of LBFGS with learning rate 0.01 and 50 iterations from T = 1.5 on the same
    objective as `fit_temperature`. For an over-confident model it covers a tenth to a half of
    the way to the optimum, the less the more over-confident the model. For an under-confident
    one it may overshoot to a T of any size and sign, because the objective is not convex in T
    and the code searches in T. For comparison with published numbers only.

    Args:
        logits_nk: Outputs before softmax on the hold-out, shape (n, k), finite.
        labels_n: Class numbers, shape (n,), in 0 … k − 1.

    Returns:
        T. Not a minimum, and not always positive.

    Raises:
        DataError: on wrong shapes or dtypes, labels out of range, non-finite logits, no samples.

    Source:
        The settings of the authors' code, which are those of the code published with Guo et
        al. 2017. Ours computes in float64.

    Example:
        >>> logits = 4 * torch.tensor([[2.0, 0.0]]).repeat(4, 1)
        >>> labels = torch.tensor([0, 0, 0, 1])
        >>> fit_temperature_paper_code(logits, labels) < 0.5 * fit_temperature(logits, labels)
        True
    """
    margin_nk = _margins(*labelled_logits(logits_nk, labels_n))
    temperature = torch.tensor(1.5, dtype=torch.float64)
    optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=50)

    def closure() -> float:
        # Derivatives by hand, so that this works inside no_grad and inference_mode.
        inverse = 1 / temperature.item()
        slope, _ = _derivatives(margin_nk, inverse)
        temperature.grad = torch.full_like(temperature, -slope * inverse**2)
        return (margin_nk * inverse).logsumexp(dim=1).mean().item()

    # torch publishes no types for this method.
    step: Callable[[Callable[[], float]], float] = optimizer.step
    step(closure)
    return temperature.item()


def _margins(wide_nk: Tensor, long_n: Tensor) -> Tensor:
    """Logits less that of the label: the loss is then the logsumexp of a row."""
    return wide_nk - wide_nk.gather(1, long_n[:, None])


def _derivatives(margin_nk: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative of the cross-entropy with respect to 1/T."""
    probability_nk = (margin_nk * inverse).softmax(dim=1)
    mean_n1 = (probability_nk * margin_nk).sum(dim=1, keepdim=True)
    variance_n = (probability_nk * (margin_nk - mean_n1).square()).sum(dim=1)
    return mean_n1.mean().item(), variance_n.mean().item()


def _root(margin_nk: Tensor, low: float, high: float) -> float:
    """Where the slope changes sign, in log 1/T: Newton, or halving where Newton is no better."""
    at = 0.0 if low < 0 < high else (low + high) / 2
    last_move = high - low
    while True:
        slope, curvature = _derivatives(margin_nk, math.exp(at))
        if slope > 0:
            high = at
        else:
            low = at
        scale = curvature * math.exp(at)
        move = -slope / scale if 0 < scale < math.inf else math.inf
        # Halving whenever a step is not half of the last one bounds the number of steps.
        if not low < at + move < high or abs(move) > last_move / 2:
            move = (low + high) / 2 - at
        at += move
        last_move = abs(move)
        if last_move < _TOLERANCE:
            return at
