"""Maxima and minima over noise, looked for in the other seeds.

The largest of several noisy numbers is too large, and a test across seeds takes the excess for an
effect. Where the other seeds say which of the numbers to take, it is one number like any other.
"""

from collections.abc import Callable, Mapping, Sequence

from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.verdicts import Hypothesis
from polyak.analysis.curves import window_means
from polyak.analysis.loaded import Scores
from polyak.records.vocabulary import BASELINE

SMOOTHING = 5
"""Epochs of the mean over neighbours, as in the paper's figure 1."""

Extreme = Callable[[Sequence[float]], float]


def place_in_others(values: Mapping[str, Sequence[float]], extreme: Extreme) -> dict[str, int]:
    """For each seed the place of the extreme in the mean of the other seeds.

        i_s = argmax_i Σ_{r ≠ s} x_{r,i}

    A single seed has no others, so its own place is taken: nothing is decided by one seed.

    Args:
        values: By seed, equally many each.
        extreme: max or min.

    Source:
        Ours.

    Example:
        >>> place_in_others({"0": [9.0, 1.0], "1": [1.0, 2.0], "2": [1.0, 3.0]}, max)
        {'0': 1, '1': 0, '2': 0}
    """
    found = {}
    for seed in values:
        others = [x for other, x in values.items() if other != seed] or [values[seed]]
        sums = [sum(column) for column in zip(*others, strict=True)]
        found[seed] = sums.index(extreme(sums))
    return found


def best_average(scores: Mapping[str, Scores], averages: Sequence[str]) -> dict[str, float]:
    """Accuracy, by seed, of the average that is the best of the bank in the other seeds."""
    accuracies = {seed: [at[name].accuracy for name in averages] for seed, at in scores.items()}
    return {s: accuracies[s][i] for s, i in place_in_others(accuracies, max).items()}


def lead(scores: Mapping[str, Scores], averages: Sequence[str]) -> dict[str, float]:
    """How far that average is ahead of SGD in accuracy."""
    best = best_average(scores, averages)
    return {seed: best[seed] - at[BASELINE].accuracy for seed, at in scores.items()}


def never_below(
    what: str, row: RowEvidence, curves: Mapping[str, Sequence[float]], *, bound: float, part: str
) -> list[Hypothesis]:
    """No five epochs of a curve are below a bound.

    Two numbers, since each may err to one side only. The worst epochs of a seed are too low by
    that seed's noise: they can show the claim and not refute it. Those that are worst in the
    other seeds need not be this seed's: they can refute it. Five are five at the ends of a run too;
    only a run that is shorter has fewer.
    """
    smooth = {seed: window_means(curve, width=SMOOTHING) for seed, curve in curves.items()}
    places = place_in_others(smooth, min)
    worst = {
        "its worst five epochs": ({s: min(x) for s, x in smooth.items()}, None),
        "the other seeds' worst five epochs": ({s: smooth[s][places[s]] for s in smooth}, bound),
    }
    return [
        Hypothesis(
            what=f"{what}, {where}",
            row=row.label,
            values=values,
            bound=bound,
            refuted_at=refuted_at,
            resolution=row.half_an_image(part),
        )
        for where, (values, refuted_at) in worst.items()
        if values
    ]
