"""The rule by which every claim is judged, the same for all of them.

A claim is a conjunction of hypotheses. A hypothesis puts the mean over seeds of one number on one
side of a bound. Two one-sided t tests decide: one may show that the mean is there, the other that
it is short of the smallest effect of interest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# Not scipy.stats: it takes a second to import.
from scipy.special import nctdtr, nctdtrinc, stdtr, stdtrit

from polyak.errors import DataError

Verdict = Literal["reproduced", "not reproduced", "underpowered", "not run"]
Side = Literal["above", "below"]

LEVEL = 0.05
"""Of both sides together: a test of one side may be wrong in half as many cases."""

POWER = 0.8
ROUNDING = 1e-12
"""A spread below this is what subtraction leaves of none."""

MOST_SEEDS = 0.95
"""Share of all possible seeds that "every seed" speaks of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """One number a seed, and where the claim has its mean."""

    what: str
    row: str
    """Label of the study's row."""

    values: Mapping[str, float]
    """By seed; fractions, nats. Those of pairs of seeds as jackknife pseudo-values."""

    side: Side = "above"
    bound: float = 0.0
    """The claim: the mean is on `side` of it."""

    refuted_at: float | None = 0.0
    """Refuted where the mean is shown not to reach it. Beyond `bound` by the smallest effect of
    interest, or equal to it where the bound is a margin already. None where the values may err
    to the wrong side, and so refute nothing."""

    unit: str = "points"
    """"points" for percentage points, "nats", "share" of the run, "%", "score", "ratio"."""

    resolution: float = 0.0
    """What the values cannot tell apart, such as half an image: the least spread assumed."""

    every_seed: bool = False
    """The claim is about each seed, not the mean: 95 % of all seeds are to be on that side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HypothesisTest:
    """What the seeds say of a hypothesis."""

    n: int
    mean: float
    low: float | None
    """Ends of the 95 % interval of the mean; None for one seed or no spread."""

    high: float | None
    p_supported: float | None
    """p of the bound not being passed; small shows the claim."""

    p_refuted: float | None
    """p of `refuted_at` being reached; small refutes the claim."""

    sd: float | None
    """Of single seeds, at least the resolution; None as above."""

    @property
    def detectable(self) -> float | None:
        """Distance of the mean from the bound that as many seeds of this spread show in 80 % of
        cases, at the level without correction; None as above."""
        return None if self.sd is None else detectable_effect(self.n, self.sd)


def assess(hypothesis: Hypothesis) -> HypothesisTest:
    """The two one-sided tests of a hypothesis.

        T(b) = ± (mean_s x_s − b) · √n / sd,   p_supported = P(t_{n−1} ≥ T(bound)),
                                                   p_refuted = P(t_{n−1} ≤ T(refuted_at))

    The sign makes the claimed side positive. For "every seed" the distribution of T(bound) is the
    noncentral t with z_{.95}·√n, which tests that at least 95 % of all seeds are on that side;
    one seed on the other side refutes it, whatever the others show.

    Raises:
        DataError: if there is no value or one is not finite.

    Source:
        Student 1908; Schuirmann 1987 for margins; Owen 1968 for the share of a normal
        distribution beyond a bound.

    Example:
        >>> found = Hypothesis(what="gain", row="", values={"0": 0.02, "1": 0.03, "2": 0.025})
        >>> round(assess(found).p_supported, 4)
        0.0065
    """
    values = list(hypothesis.values.values())
    if not values or not all(map(math.isfinite, values)):
        raise DataError(
            f"values of {hypothesis.what!r} is {values}; expected at least one number, all finite. "
            "Leave out the seeds whose run failed."
        )
    n = len(values)
    mean = math.fsum(values) / n
    refuted = _counterexample(hypothesis) if hypothesis.every_seed else None
    squares = math.fsum((x - mean) ** 2 for x in values)
    sd = max(math.sqrt(squares / (n - 1)), hypothesis.resolution) if n > 1 else 0.0
    if sd <= ROUNDING:
        return HypothesisTest(
            n=n, mean=mean, low=None, high=None, p_supported=None, p_refuted=refuted, sd=None
        )
    error = sd / math.sqrt(n)
    sign = 1 if hypothesis.side == "above" else -1
    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * error
    t = sign * (mean - hypothesis.bound) / error
    shown = _beyond_most(n, t) if hypothesis.every_seed else float(stdtr(n - 1, -t))
    if refuted == 0:
        shown = 1.0
    if refuted is None and hypothesis.refuted_at is not None:
        refuted = float(stdtr(n - 1, sign * (mean - hypothesis.refuted_at) / error))
    return HypothesisTest(
        n=n,
        mean=mean,
        low=mean - half,
        high=mean + half,
        p_supported=shown,
        p_refuted=refuted,
        sd=sd,
    )


def detectable_effect(
    n: int, sd: float, *, level: float = LEVEL / 2, power: float = POWER
) -> float:
    """The mean effect that n seeds of a spread show in 80 % of cases.

        δ · sd / √n,   P(t'_{n−1}(δ) ≥ t_{n−1, 1−level}) = power,   t' the noncentral t

    Args:
        n: Seeds, at least 2.
        sd: Of single seeds.
        level: Of the one-sided test.
        power: Share of cases.

    Example:
        >>> [round(detectable_effect(n, 1.0), 2) for n in (3, 5, 10)]
        [3.26, 1.68, 1.0]
    """
    critical = float(stdtrit(n - 1, 1 - level))
    return float(nctdtrinc(n - 1, 1 - power, critical)) * sd / math.sqrt(n)


def _beyond_most(n: int, t: float) -> float:
    z = float(stdtrit(math.inf, MOST_SEEDS))
    return 1 - float(nctdtr(n - 1, z * math.sqrt(n), t))


def _counterexample(hypothesis: Hypothesis) -> float:
    """0 if a seed is on the wrong side: where no seed ever is, that never happens."""
    sign = 1 if hypothesis.side == "above" else -1
    return float(all(sign * (x - hypothesis.bound) > 0 for x in hypothesis.values.values()))


def p_all_supported(tests: Sequence[HypothesisTest]) -> float | None:
    """p of not every hypothesis being so: the largest (Berger 1982, intersection-union test)."""
    found = [test.p_supported for test in tests]
    known = [p for p in found if p is not None]
    return max(known) if known and len(known) == len(found) else None


def p_any_refuted(tests: Sequence[HypothesisTest]) -> float | None:
    """p of no hypothesis being refuted: the smallest times how many could be (Bonferroni).

    A hypothesis whose values may err to the wrong side, or have no spread, cannot be refuted and
    is no try.
    """
    known = [test.p_refuted for test in tests if test.p_refuted is not None]
    return min(1.0, min(known) * len(known)) if known else None


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """p values corrected for how many were tried: rejecting below a level keeps the expected
    share of false rejections below it.

        q_(i) = min_{j ≥ i} p_(j) · m / j

    Source:
        Benjamini and Hochberg 1995; holds under positive dependence (Benjamini, Yekutieli 2001).

    Example:
        >>> benjamini_hochberg([0.01, 0.5, 0.02])
        [0.03, 0.5, 0.03]
    """
    return _corrected(ps, [len(ps) / rank for rank in range(1, len(ps) + 1)], from_largest=True)


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected so that rejecting below a level makes any false rejection that rare.

        q_(i) = max_{j ≤ i} p_(j) · (m − j + 1)

    Source:
        Holm 1979; holds under any dependence.

    Example:
        >>> holm([0.01, 0.5, 0.02])
        [0.03, 0.5, 0.04]
    """
    return _corrected(ps, list(range(len(ps), 0, -1)), from_largest=False)


def _corrected(ps: Sequence[float], factors: Sequence[float], *, from_largest: bool) -> list[float]:
    """p · factor by rank, made monotone from the largest p down or from the smallest up."""
    ranked = sorted(range(len(ps)), key=lambda i: ps[i])
    scaled = [min(1.0, ps[i] * factor) for i, factor in zip(ranked, factors, strict=True)]
    steps = range(len(ps) - 2, -1, -1) if from_largest else range(1, len(ps))
    for i in steps:
        scaled[i] = min(scaled[i], scaled[i + 1]) if from_largest else max(scaled[i - 1], scaled[i])
    return [q for _, q in sorted(zip(ranked, scaled, strict=True))]


def verdict(p_supported: float | None, p_refuted: float | None) -> Verdict:
    """What corrected p values say.

    Both may be small: then the effect is there, and smaller than the smallest of interest. That
    is the claim's direction, so it counts as reproduced, and the page says how small it is.

    Example:
        >>> verdict(0.001, 0.9), verdict(0.9, 0.001), verdict(0.1, 0.3), verdict(None, None)
        ('reproduced', 'not reproduced', 'underpowered', 'underpowered')
    """
    if p_supported is not None and p_supported <= LEVEL / 2:
        return "reproduced"
    if p_refuted is not None and p_refuted <= LEVEL / 2:
        return "not reproduced"
    return "underpowered"
