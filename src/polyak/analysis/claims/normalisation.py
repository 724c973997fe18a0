"""Claims about BatchNorm's statistics and long windows (section 3.4)."""

from collections.abc import Callable, Mapping
from statistics import fmean

from polyak.analysis.claims.claim import EQUAL
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.extremes import never_below
from polyak.analysis.claims.verdicts import Hypothesis
from polyak.analysis.loaded import RunLog, Scores
from polyak.records.claims import WORTH

FAILS_BY = 0.01
"""What the paper calls failing is more than a nuance: a point."""

MIDDLE = (0.25, 0.75)
"""Part of the run that means are over: after the start, before the learning rate is gone."""

Curves = tuple[Mapping[int, Scores], Mapping[int, Scores]]
"""By epoch: with averaged and with recomputed statistics."""


def longest_window_needs_recomputation(row: RowEvidence) -> list[Hypothesis]:
    """The longest window fails with averaged statistics, recovers with recomputed ones, and is
    then better than the shortest."""
    runs, part = _recomputed(row)
    if not row.batchnorm or not runs or len(row.averages) < 2:
        return []
    short, long = row.averages[0], row.averages[-1]
    averaged = {seed: _means(c[0], row) for seed, c in runs.items()}
    anew = {seed: _means(c[1], row) for seed, c in runs.items()}
    over = f"{part} accuracy, middle of the run"

    def hypothesis(what: str, value: Callable[[str], float], worth: float) -> Hypothesis:
        return Hypothesis(
            what=f"{what}, {over}",
            row=row.label,
            values={seed: value(seed) for seed in runs},
            side="above" if worth > 0 else "below",
            refuted_at=worth,
            resolution=row.half_an_image(part),
        )

    return [
        hypothesis(
            f"{long} − {short}, statistics averaged",
            lambda seed: averaged[seed][long] - averaged[seed][short],
            -FAILS_BY,
        ),
        hypothesis(
            f"{long}, statistics recomputed − averaged",
            lambda seed: anew[seed][long] - averaged[seed][long],
            FAILS_BY,
        ),
        hypothesis(
            f"{long} − {short}, statistics recomputed",
            lambda seed: anew[seed][long] - anew[seed][short],
            WORTH["accuracy"],
        ),
    ]


def recomputing_always_helps(row: RowEvidence) -> list[Hypothesis]:
    """For every average recomputed statistics are better over the run, and never worse."""
    runs, part = _recomputed(row)
    if not row.batchnorm:
        return []
    found = []
    for name in row.averages if runs else ():
        gains = {
            seed: [anew[epoch][name].accuracy - averaged[epoch][name].accuracy for epoch in anew]
            for seed, (averaged, anew) in runs.items()
        }
        what = f"{name}, statistics recomputed − averaged, {part} accuracy"
        found += [
            Hypothesis(
                what=f"{what}, mean over the run",
                row=row.label,
                values={seed: fmean(values) for seed, values in gains.items()},
                refuted_at=WORTH["accuracy"],
                resolution=row.half_an_image(part),
            ),
            *never_below(what, row, gains, bound=-WORTH["accuracy"], part=part),
        ]
    return found


def slow_decay_is_harmless_without_batchnorm(row: RowEvidence) -> list[Hypothesis]:
    """A network without BatchNorm loses nothing by the longest window."""
    runs = {seed: log.part("holdout") for seed, log in row.search.items() if log.part("holdout")}
    if row.batchnorm is not False or not runs or len(row.averages) < 2:
        return []
    short, long = row.averages[0], row.averages[-1]
    means = {seed: _means(scores, row) for seed, scores in runs.items()}
    return [
        Hypothesis(
            what=f"{long} − {short}, hold-out accuracy, middle of the run",
            row=row.label,
            values={seed: found[long] - found[short] for seed, found in means.items()},
            bound=-EQUAL,
            refuted_at=-EQUAL,
            resolution=row.half_an_image("holdout"),
        )
    ]


def _recomputed(row: RowEvidence) -> tuple[dict[str, Curves], str]:
    """By seed the scores with averaged and with recomputed statistics, and on what."""
    for runs, part in ((row.search, "holdout"), (row.refit, "test")):
        found = {
            seed: curves for seed, log in runs.items() if (curves := _both(log, part)) is not None
        }
        if found:
            return found, part
    return {}, ""


def _both(log: RunLog, part: str) -> Curves | None:
    averaged, anew = log.part(part), log.part(f"{part}_bn")
    return (averaged, anew) if anew and anew.keys() <= averaged.keys() else None


def _means(scores: Mapping[int, Scores], row: RowEvidence) -> dict[str, float]:
    """Accuracy of each average over the middle of the run."""
    low, high = (share * row.budget for share in MIDDLE)
    middle = [s for epoch, s in scores.items() if low <= epoch <= high] or list(scores.values())
    return {name: fmean(s[name].accuracy for s in middle) for name in row.averages}
