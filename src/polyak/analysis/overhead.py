"""What averages cost beside the training that they accompany, from interleaved timings."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from polyak.errors import DataError
from polyak.records.timings import Timing, Timings

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Median:
    """A median with an interval that assumes no distribution."""

    value: float
    low: float | None
    """Lower end; None where there are too few numbers for the level."""

    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """One bank."""

    averages: int
    every: int | None
    step: Median
    """Seconds a step."""

    steps_ratio: Median
    """Time of the steps over that of no average, by round."""

    evaluation: Median
    """Seconds of an epoch's evaluation: SGD and every average on the hold-out."""

    epoch_ratio: Median
    """Time of steps and evaluation over that of no average's steps and evaluation of SGD."""

    over_training: Median
    """Time of steps and evaluation over that of plain steps alone."""

    mib: float
    """What the averages hold, in units of 2²⁰ bytes."""


def overheads(timings: Timings) -> list[Overhead]:
    """Every case against training without averages; ratios are taken within rounds."""
    plain = timings.baseline
    plain_epochs = _sums(plain)
    return [
        Overhead(
            averages=case.averages,
            every=case.every,
            step=median_interval([s / timings.steps for s in case.steps_seconds]),
            steps_ratio=median_interval(_ratios(case.steps_seconds, plain.steps_seconds)),
            evaluation=median_interval(case.evaluation_seconds),
            epoch_ratio=median_interval(_ratios(_sums(case), plain_epochs)),
            over_training=median_interval(_ratios(_sums(case), plain.steps_seconds)),
            mib=case.bytes / MIB,
        )
        for case in timings.cases
    ]


def median_interval(values: Sequence[float], *, level: float = 0.95) -> Median:
    """The median with the interval between two of the numbers themselves.

        [x₍ₖ₎, x₍ₙ₊₁₋ₖ₎],   the largest k with 1 − 2·P(B ≤ k − 1) ≥ level, B ~ Binomial(n, 1/2)

    Args:
        values: At least one. With fewer than six no such interval has a level of 0.95.
        level: Coverage at least, a fraction in (0, 1).

    Raises:
        DataError: if there is no value.

    Source:
        The sign test turned round; exact for independent numbers of any distribution.

    Example:
        >>> median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 9.0])
        Median(value=3.5, low=1.0, high=9.0)
    """
    if not values:
        raise DataError("values is empty; expected at least one timing. Measure again.")
    ordered, n = sorted(values), len(values)
    k, below = 0, 0.0
    while k < n // 2:
        below += math.comb(n, k) / 2**n
        if 1 - 2 * below < level:
            break
        k += 1
    middle = statistics.median(ordered)
    return Median(middle, ordered[k - 1], ordered[n - k]) if k else Median(middle, None, None)


def _sums(case: Timing) -> list[float]:
    return [a + b for a, b in zip(case.steps_seconds, case.evaluation_seconds, strict=True)]


def _ratios(ours: Sequence[float], plain: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, plain, strict=True)]
