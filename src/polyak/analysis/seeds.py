"""What a handful of seeds says about a number, and about the difference of two."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Not scipy.stats: it takes a second to import.
from scipy.special import stdtrit

from polyak.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its confidence interval."""

    mean: float
    low: float | None
    """Lower end of the interval; None for a single seed."""
    high: float | None
    """Upper end of the interval; None for a single seed."""
    sd: float | None
    """Standard deviation of single seeds, ddof 1; None for a single seed."""
    n: int
    """Number of seeds that count."""
    dropped: tuple[int, ...] = ()
    """Seeds left out of a paired difference because only one side has them."""

    @property
    def sd_paper_code(self) -> float | None:
        """Standard deviation with ddof 0, as the authors' code has it; None for a single seed."""
        return None if self.sd is None else self.sd * math.sqrt((self.n - 1) / self.n)


def mean_interval(values: Iterable[float], *, level: float = 0.95) -> Interval:
    """Mean over seeds with Student's confidence interval.

        mean ± t_{(1+level)/2, n−1} · sd / √n

    Args:
        values: One number a seed, finite, at least one.
        level: Coverage of the interval, a fraction in (0, 1).

    Returns:
        Mean, interval, standard deviation with ddof 1, and n. A single value has a mean only.

    Raises:
        DataError: if there is no value or one is not finite.
        ConfigError: if `level` is outside (0, 1).

    Source:
        Student 1908: exact if seeds are independent and their values normal.

    Example:
        >>> interval = mean_interval([0.1, 0.2, 0.3])
        >>> round(interval.low, 3), round(interval.high, 3)  # 3 seeds say little
        (-0.048, 0.448)
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level!r}; expected 0 < level < 1. Write 95 % as 0.95.")
    numbers = [float(value) for value in values]
    if not numbers or not all(map(math.isfinite, numbers)):
        raise DataError(
            f"values is {numbers}; expected at least one number, all finite. "
            "Leave out the seeds whose run failed, and say so."
        )
    mean, n = statistics.fmean(numbers), len(numbers)
    if n == 1:
        return Interval(mean, None, None, None, n)
    sd = statistics.stdev(numbers)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n)


def paired_difference(
    ours: Mapping[int, float], baseline: Mapping[int, float], *, level: float = 0.95
) -> Interval:
    """Mean of ours − baseline over the seeds that both have, with its confidence interval.

        mean_s(ours_s − baseline_s) ± t_{(1+level)/2, n−1} · sd_s(ours_s − baseline_s) / √n

    Two models of one seed share initialisation, data order and augmentation, so what they have
    in common cancels, and the interval is often narrower than that of either.

    Args:
        ours: Seed to number, finite.
        baseline: Seed to number, finite.
        level: Coverage of the interval, a fraction in (0, 1).

    Returns:
        The interval of the difference. Positive means that ours is larger, which is better only
        for metrics where more is better. `dropped` names the seeds that only one side has.

    Raises:
        DataError: if no seed is shared or a shared value is not finite.
        ConfigError: if `level` is outside (0, 1).

    Example:
        >>> difference = paired_difference({0: 0.5, 1: 0.75, 2: 0.5}, {0: 0.25, 1: 0.5})
        >>> difference.mean, difference.n, difference.dropped
        (0.25, 2, (2,))
    """
    shared = sorted(ours.keys() & baseline.keys())
    if not shared:
        raise DataError(
            f"the seeds of ours are {sorted(ours)} and of the baseline {sorted(baseline)}; "
            "expected at least one in common. Run both with the same seeds."
        )
    pooled = mean_interval((ours[seed] - baseline[seed] for seed in shared), level=level)
    dropped = tuple(sorted(ours.keys() ^ baseline.keys()))
    return Interval(pooled.mean, pooled.low, pooled.high, pooled.sd, pooled.n, dropped)
