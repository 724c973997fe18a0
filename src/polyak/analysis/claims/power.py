"""How small an effect the seeds of a declared claim can see, before anything has run."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from polyak.analysis.claims.declared import comparison_hypotheses, in_words
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.verdicts import LEVEL, POWER, detectable_effect
from polyak.analysis.results import Result, Results
from polyak.records.claims import Claim, Comparison
from polyak.records.registration import Power
from polyak.records.vocabulary import BASELINE

Spread = Callable[[Comparison], tuple[float | None, str]]
"""The standard deviation of a comparison's number over seeds (None: not known), and from where."""

KEPT_SPREADS = {
    "accuracy": (0.0097, 0.0072),
    "loss": (0.0239, 0.0165),
    "brier": (0.0101, 0.0065),
    "ece": (0.0096, 0.0055),
    "churn": (0.0147, 0.0157),
    "js": (0.0055, 0.0045),
    "memorised": (0.0264, 0.0122),
    "ece_scaled": (0.0080, 0.0066),
    "loss_scaled": (0.0072, 0.0144),
    "holdout_accuracy": (0.0076, 0.0077),
    "epoch": (0.0687, 0.0910),
}
"""By metric: of the difference of two arms of a run, and of one arm's number. The median over rows
of the studies kept until 28 November 2026, by `docs/results/spreads.py`. These are small: with more
test images, and with training at the paper's size, seeds differ less."""

CURVE_SPREADS = {
    "accuracy": {
        0.1: (0.0398, 0.0064, 0.0139),
        0.25: (0.0351, 0.0092, 0.0123),
        0.5: (0.0201, 0.0083, 0.0098),
        0.75: (0.0084, 0.0072, 0.0085),
        1.0: (0.0042, 0.0040, 0.0078),
    },
    "loss": {
        0.1: (0.1556, 0.0056, 0.0246),
        0.25: (0.1356, 0.0176, 0.0209),
        0.5: (0.0774, 0.0197, 0.0164),
        0.75: (0.0590, 0.0127, 0.0241),
        1.0: (0.0073, 0.0063, 0.0312),
    },
}
"""By metric and share of the run, of the hold-out: the best average − SGD, two averages, one alone.
From the same studies. While the rate is high, SGD itself is what differs."""

KEPT = "the kept studies’ median (docs/results)"


def power(
    claims: Sequence[Claim], seeds: Mapping[str, Sequence[int]], spread: Spread
) -> tuple[Power, ...]:
    """What the seeds of each claim can see of each of its comparisons.

    The test is the ledger's, one-sided at 2.5 %, by the noncentral t. For "within" the two sides
    have to be shown both, so each in 90 % of cases. Corrected means that the claim is the only
    true one of all: then Benjamini and Hochberg ask of it 2.5 % divided by their number.

    Args:
        claims: All that a study declares.
        seeds: By the claim's id.
        spread: What is assumed of how far seeds differ.
    """
    return tuple(
        _power(claim, comparison, len(seeds[claim.id]), spread, len(claims))
        for claim in claims
        for comparison in claim.comparisons
    )


def kept_spread(comparison: Comparison) -> tuple[float | None, str]:
    """What seeds differ by in the studies that the project keeps.

    Numbers of two rows come from different runs, taken as independent.
    """
    if comparison.at is None:
        difference, alone = KEPT_SPREADS[comparison.metric]
    else:
        difference, alone = _of_curve(comparison, comparison.at)
    if comparison.against is None:
        return alone, KEPT
    return (difference if len(comparison.rows) == 1 else math.sqrt(2) * alone), KEPT


def earlier_spread(rows: Sequence[RowEvidence], name: str) -> Spread:
    """What seeds differ by in an earlier study; where it does not say, in the kept ones.

    Rows of the same labels count alone if the study has them, else all of its rows, pooled.

    Args:
        rows: The earlier study's.
        name: What to call it.
    """

    def spread(comparison: Comparison) -> tuple[float | None, str]:
        labels = [row.label for row in rows]
        asked = [comparison]
        if not set(comparison.rows) <= set(labels):
            asked = [replace(comparison, row=label, against_row=None) for label in labels]
        two = len(comparison.rows) > 1 and asked != [comparison]
        samples = [_alone(each, rows) if two else _samples(each, rows) for each in asked]
        variances = [(len(x) - 1, _variance(x)) for found in samples for x in found if len(x) > 1]
        if not variances:
            return kept_spread(comparison)
        freedom = sum(n for n, _ in variances)
        pooled = sum(n * variance for n, variance in variances) / freedom
        return math.sqrt(2 * pooled if two else pooled), name

    return spread


def evidence_of(results: Iterable[Result]) -> list[RowEvidence]:
    """Rows of which there is the table of numbers and nothing else: no curves, no stops."""
    by_row: dict[str, list[Result]] = {}
    for result in results:
        by_row.setdefault(result.row, []).append(result)
    return [
        RowEvidence(label=label, budget=0, averages=(), results=Results(numbers))
        for label, numbers in by_row.items()
    ]


def _of_curve(comparison: Comparison, at: float) -> tuple[float, float]:
    """At the share nearest to the comparison's, or to the middle of where it is about."""
    middle = (at + (comparison.until or at)) / 2
    spreads = CURVE_SPREADS[comparison.metric]
    from_sgd, of_two, alone = spreads[min(spreads, key=lambda share: abs(share - middle))]
    return (from_sgd if BASELINE in (comparison.arm, comparison.against) else of_two), alone


def _power(claim: Claim, comparison: Comparison, seeds: int, spread: Spread, claims: int) -> Power:
    sd, source = spread(comparison)
    share = 1 - (1 - POWER) / 2 if comparison.side == "within" else POWER
    seen: list[float | None] = [None, None]
    if sd is not None and not comparison.every_seed:
        levels = (LEVEL / 2, LEVEL / 2 / claims)
        seen = [detectable_effect(seeds, sd, level=level, power=share) for level in levels]
    return Power(
        claim=claim.id,
        what=in_words(comparison),
        unit=comparison.unit,
        seeds=seeds,
        sd=sd,
        source=source,
        detectable=seen[0],
        detectable_corrected=seen[1],
    )


def _samples(comparison: Comparison, rows: Sequence[RowEvidence]) -> Iterator[Sequence[float]]:
    """The comparison's numbers, one sample for each arm that it is against."""
    if comparison.at is not None or comparison.metric == "epoch":
        return
    sides = comparison_hypotheses(comparison, rows)
    seen = {tuple(hypothesis.values.values()) for hypothesis in sides}
    yield from sorted(seen)


def _alone(comparison: Comparison, rows: Sequence[RowEvidence]) -> Iterator[Sequence[float]]:
    """The numbers of each side of the comparison by itself."""
    first = replace(comparison, against=None, against_phase=None)
    phase = comparison.against_phase or comparison.phase
    for side in (first, replace(first, arm=comparison.against or comparison.arm, phase=phase)):
        yield from _samples(side, rows)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1)
