"""Whether a classifier that says 80 % is right 80 % of the time.

Everything here looks at the predicted class only (top-label calibration): its probability is the
*confidence*, and it is *correct* or not.

Shape suffixes: n samples, k classes, b bins.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from polyak.errors import ConfigError, DataError, unknown
from polyak.metrics.inputs import check_tensors, labelled_logits, wide_logits

Scheme = Literal["equal_mass", "equal_width"]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bar of a reliability diagram: the samples with low < confidence <= high."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Mean confidence of the bin's samples; None where it has none."""
    accuracy: float | None
    """Fraction of the bin's samples that are correct; None where it has none."""


def ece(
    logits_nk: Tensor, labels_n: Tensor, *, bins: int = 100, scheme: Scheme = "equal_mass"
) -> float:
    """Expected calibration error of the predicted class.

        ECE = Σ_b (n_b / n) · |accuracy_b − confidence_b|

    Args:
        logits_nk: Outputs before softmax, shape (n, k), finite.
        labels_n: Class numbers, shape (n,), in 0 … k − 1.
        bins: Number of bins, at least 1; for equal mass at most n.
        scheme: "equal_mass" (bins of equally many samples) or "equal_width".

    Returns:
        A fraction in [0, 1]. It is biased upwards: see `ece_floor`.

    Raises:
        DataError: on wrong shapes or dtypes, labels out of range, non-finite logits, no samples.
        ConfigError: if `bins` is out of range or `scheme` is unknown.

    Source:
        Guo et al. 2017 (equal width), Nguyen & O'Connor 2015 (equal mass). The paper uses
        100 bins of equal mass.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
        >>> round(ece(logits, torch.tensor([0, 0]), bins=1), 4)  # half right, sure of .9526
        0.4526
    """
    confidence_n, correct_n = _top_label(*labelled_logits(logits_nk, labels_n))
    bin_n = _assign(confidence_n, bins=bins, scheme=scheme)
    return _calibration_error(bin_n, confidence_n, correct_n)


def ece_equal_mass(confidence_n: Tensor, correct_n: Tensor, *, bins: int) -> float:
    """Expected calibration error over bins that hold equally many samples.

        ECE = Σ_b (n_b / n) · |accuracy_b − confidence_b|

    Args:
        confidence_n: Probability of the predicted class, shape (n,), in [0, 1].
        correct_n: Whether the prediction was right, shape (n,), bool or 0 and 1.
        bins: Number of bins, 1 to n. Sizes differ by at most one sample, the larger ones at
            low confidence; every sample counts.

    Returns:
        A fraction in [0, 1]. The report layer turns it into percent, once.

    Raises:
        DataError: on wrong shapes or values outside the ranges above.
        ConfigError: unless 1 <= bins <= n.

    Source:
        Nguyen & O'Connor 2015.

    Note:
        Samples tied in confidence keep their input order, so many ties (a float32 softmax
        saturated at 1) make the value depend on it: use a float64 softmax, as `ece` does.

    Example:
        >>> round(ece_equal_mass(torch.tensor([0.6, 0.8]), torch.tensor([False, True]), bins=2), 3)
        0.4
    """
    confidence_n, correct_n = _scored(confidence_n, correct_n)
    bin_n = _assign(confidence_n, bins=bins, scheme="equal_mass")
    return _calibration_error(bin_n, confidence_n, correct_n)


def ece_equal_width(confidence_n: Tensor, correct_n: Tensor, *, bins: int) -> float:
    """Expected calibration error over bins of equal width, ((b − 1)/B, b/B] for b = 1 … B.

        ECE = Σ_b (n_b / n) · |accuracy_b − confidence_b|

    Args:
        confidence_n: Probability of the predicted class, shape (n,), in [0, 1].
        correct_n: Whether the prediction was right, shape (n,), bool or 0 and 1.
        bins: Number of bins B, at least 1. A confidence of exactly 1 belongs to the last bin,
            one of exactly 0 to the first.

    Returns:
        A fraction in [0, 1].

    Raises:
        DataError: on wrong shapes or values outside the ranges above.
        ConfigError: unless bins >= 1.

    Source:
        Guo et al. 2017.

    Example:
        >>> confidence = torch.tensor([0.95, 1.0], dtype=torch.float64)
        >>> round(ece_equal_width(confidence, torch.tensor([1, 0]), bins=10), 6)
        0.475
    """
    confidence_n, correct_n = _scored(confidence_n, correct_n)
    bin_n = _assign(confidence_n, bins=bins, scheme="equal_width")
    return _calibration_error(bin_n, confidence_n, correct_n)


def ece_floor(
    logits_nk: Tensor,
    *,
    bins: int = 100,
    scheme: Scheme = "equal_mass",
    draws: int = 100,
    generator: torch.Generator,
) -> float:
    """The ECE that a perfectly calibrated model with these confidences scores on average.

        floor = E[ECE],  correct_i ~ Bernoulli(confidence_i)

    ECE takes the absolute value of noise, so with few samples a bin it is far from 0 even if
    nothing is wrong. An ECE means something only in comparison with its floor.

    Args:
        logits_nk: Outputs before softmax, shape (n, k), finite.
        bins: As in `ece`.
        scheme: As in `ece`.
        draws: Number of sets of labels drawn, at least 1.
        generator: Source of the draws.

    Returns:
        A fraction in [0, 1].

    Raises:
        DataError: on a wrong shape or dtype, non-finite logits, no samples.
        ConfigError: if `bins` or `draws` is out of range or `scheme` is unknown.

    Source:
        Ours; the bias is analysed in Roelofs et al. 2022, "Mitigating bias in calibration error
        estimation".

    Example:
        >>> sure = torch.tensor([[1000.0, 0.0]])  # certain, so never wrong
        >>> ece_floor(sure, bins=1, generator=torch.Generator().manual_seed(0))
        0.0
    """
    if draws < 1:
        raise ConfigError(f"draws is {draws!r}; expected >= 1. 100 are precise to about 1 %.")
    confidence_n = wide_logits(logits_nk).softmax(dim=1).amax(dim=1)
    bin_n = _assign(confidence_n, bins=bins, scheme=scheme)
    total = 0.0
    for _ in range(draws):
        # Drawn on the generator's device, so that one seed gives one value wherever logits are.
        uniform_n = torch.rand(
            confidence_n.shape, generator=generator, device=generator.device, dtype=torch.float64
        ).to(confidence_n.device)
        total += _calibration_error(bin_n, confidence_n, (uniform_n < confidence_n).double())
    return total / draws


def reliability(logits_nk: Tensor, labels_n: Tensor, *, bins: int = 15) -> list[ReliabilityBin]:
    """The bars of a reliability diagram: accuracy against confidence in bins of equal width.

    Args:
        logits_nk: Outputs before softmax, shape (n, k), finite.
        labels_n: Class numbers, shape (n,), in 0 … k − 1.
        bins: Number of bins, at least 1.

    Returns:
        All bins from low to high confidence, empty ones included. Their mean gap weighted by
        count is the `ece` with scheme "equal_width".

    Raises:
        DataError: on wrong shapes or dtypes, labels out of range, non-finite logits, no samples.
        ConfigError: unless bins >= 1.

    Example:
        >>> top = reliability(torch.tensor([[3.0, 0.0]]), torch.tensor([0]), bins=2)[1]
        >>> top.low, top.high, top.count, top.accuracy
        (0.5, 1.0, 1, 1.0)
    """
    confidence_n, correct_n = _top_label(*labelled_logits(logits_nk, labels_n))
    bin_n = _assign(confidence_n, bins=bins, scheme="equal_width")
    count_b = bin_n.bincount(minlength=bins).tolist()
    confidence_b = _sum_by_bin(bin_n, confidence_n, bins).tolist()
    correct_b = _sum_by_bin(bin_n, correct_n, bins).tolist()
    return [
        ReliabilityBin(
            low=b / bins,
            high=(b + 1) / bins,
            count=count,
            confidence=confidence_b[b] / count if count else None,
            accuracy=correct_b[b] / count if count else None,
        )
        for b, count in enumerate(count_b)
    ]


def _top_label(wide_nk: Tensor, long_n: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence of the predicted class, and 1.0 where that class is the label."""
    # argmax of the logits, as in accuracy: softmax can round two classes to one probability.
    correct_n = (wide_nk.argmax(dim=1) == long_n).double()
    return wide_nk.softmax(dim=1).amax(dim=1), correct_n


def _scored(confidence_n: Tensor, correct_n: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 after the checks that `ece_equal_mass` and `ece_equal_width` promise."""
    check_tensors(confidence=confidence_n, correct=correct_n)
    if confidence_n.ndim != 1 or confidence_n.numel() < 1 or confidence_n.shape != correct_n.shape:
        raise DataError(
            f"the shape of confidence is {tuple(confidence_n.shape)} and of correct "
            f"{tuple(correct_n.shape)}; expected one shape (n,) with n >= 1. "
            "Pass one number of each for every sample."
        )
    confidence_n, correct_n = confidence_n.detach().double(), correct_n.detach().double()
    outside = int((~((confidence_n >= 0) & (confidence_n <= 1))).sum())
    if outside:
        raise DataError(
            f"the number of confidences outside [0, 1] is {outside}; expected 0. "
            "Pass probabilities as fractions, not logits or percent."
        )
    if not ((correct_n == 0) | (correct_n == 1)).all():
        raise DataError(
            "correct is not only 0 and 1; expected bool. Pass `prediction == label` of each sample."
        )
    return confidence_n, correct_n.to(confidence_n.device)


def _assign(confidence_n: Tensor, *, bins: int, scheme: Scheme) -> Tensor:
    """The number of each sample's bin, from 0 at the lowest confidence."""
    if bins < 1:
        raise ConfigError(f"bins is {bins!r}; expected >= 1. The paper uses 100.")
    if scheme not in _BINNINGS:
        raise ConfigError(unknown("scheme", scheme, _BINNINGS))
    return _BINNINGS[scheme](confidence_n, bins)


def _equal_mass(confidence_n: Tensor, bins: int) -> Tensor:
    if bins > confidence_n.numel():
        raise ConfigError(
            f"bins is {bins!r}; expected at most {confidence_n.numel()}, the number of samples. "
            "Use fewer bins or more samples."
        )
    order_n = confidence_n.argsort(stable=True)
    bin_n = torch.empty_like(order_n)
    for b, members in enumerate(order_n.tensor_split(bins)):
        bin_n[members] = b
    return bin_n


def _equal_width(confidence_n: Tensor, bins: int) -> Tensor:
    # Edges by division and comparison: ceil(0.07 · 100) is 8 in floating point, one bin too far.
    inner = torch.arange(1, bins, dtype=torch.float64, device=confidence_n.device) / bins
    return torch.bucketize(confidence_n, inner)


_BINNINGS = {"equal_mass": _equal_mass, "equal_width": _equal_width}


def _sum_by_bin(bin_n: Tensor, value_n: Tensor, bins: int) -> Tensor:
    return value_n.new_zeros(bins).index_add_(0, bin_n, value_n)


def _calibration_error(bin_n: Tensor, confidence_n: Tensor, correct_n: Tensor) -> float:
    # n_b/n · |mean gap| = |summed gap| / n, so no division by a bin's size is needed.
    gap_b = _sum_by_bin(bin_n, correct_n - confidence_n, int(bin_n.max()) + 1)
    return gap_b.abs().sum().item() / bin_n.numel()
