"""Claims about runs that differ from the protocol in one respect (appendices A, C, D, E)."""

from collections.abc import Mapping, Sequence

from polyak.analysis.claims.claim import (
    EQUAL,
    equivalent,
    gain,
    paired,
    varied,
)
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.extremes import lead
from polyak.analysis.claims.verdicts import Hypothesis
from polyak.analysis.loaded import RunLog
from polyak.records.claims import WORTH
from polyak.records.vocabulary import BASELINE, EMA_ACC_BN, SGD_BN, Phase

MEMORISED = 0.05
"""Smallest difference of interest in the share of wrong labels learnt."""

PHASES: tuple[Phase, ...] = ("refit", "search")


def period_makes_no_difference(rows: Sequence[RowEvidence]) -> list[Hypothesis]:
    """T = 16 and T = 1 give the same accuracy: both within half a point, by two tests."""
    found = []
    for first, second in varied(rows, lambda row: row.settings.get("averaging.every") == 1):
        period = first.settings.get("averaging.every", 1)
        if period == 1:
            continue
        found += equivalent(
            f"test accuracy of EMA (acc.) with T = {period} − T = 1",
            f"{first.label} | {second.label}",
            _between(first, second, EMA_ACC_BN),
            margin=EQUAL,
            resolution=first.half_an_image("test"),
        )
    return found


def bootstrapping_does_not_help(rows: Sequence[RowEvidence]) -> list[Hypothesis]:
    """SGD that goes on from its average after each epoch does not end better."""
    found = []
    for first, second in varied(rows, lambda row: row.settings.get("bootstrap") is not None):
        values = _between(second, first, BASELINE)
        found += _no_more_than("test accuracy of SGD, bootstrapped − plain", first, second, values)
    return found


def step_decay_takes_the_gain(rows: Sequence[RowEvidence]) -> list[Hypothesis]:
    """Under step decay the best average ends within half a point of SGD."""
    found = []
    for row in rows:
        if row.settings.get("optim.schedule") != "step":
            continue
        last = {
            seed: list(log.part("holdout").values())[-1]
            for seed, log in row.search.items()
            if log.part("holdout")
        }
        found += equivalent(
            "best average − SGD, hold-out accuracy, last epoch",
            row.label,
            lead(last, row.averages),
            margin=EQUAL,
            resolution=row.half_an_image("holdout"),
        )
    return found


def memorising_comes_with_decay(row: RowEvidence) -> list[Hypothesis]:
    """With the learning rate held, the longest window memorises less than with it going on to
    fall, and no more than when the holding began."""
    decayed, held = _learnt(row, row.search), _learnt(row, row.held)
    both = decayed.keys() & held.keys()
    if not both:
        return []
    begun = {seed: _held_from(row.held[seed]) for seed in both}
    resolution = row.half_an_image("wrong")
    return [
        Hypothesis(
            what="wrong labels learnt at the end, learning rate falling − held",
            row=row.label,
            values={seed: decayed[seed][-1] - held[seed][-1] for seed in both},
            refuted_at=MEMORISED,
            resolution=resolution,
        ),
        Hypothesis(
            what="wrong labels learnt while held, end − begin",
            row=row.label,
            values={seed: held[seed][-1] - held[seed][begun[seed] - 1] for seed in both},
            side="below",
            bound=MEMORISED,
            refuted_at=MEMORISED,
            resolution=resolution,
        ),
    ]


def beats_annealed_sgd(row: RowEvidence) -> list[Hypothesis]:
    """EMA at its stopping epoch is more accurate than SGD annealed by that epoch."""
    return gain(
        row,
        EMA_ACC_BN,
        BASELINE,
        metric="accuracy",
        phase=row.judged,
        of="annealed",
        better="test accuracy, EMA (acc.) at its epoch − SGD annealed by then",
    )


def beats_annealed_sgd_recomputed(row: RowEvidence) -> list[Hypothesis]:
    """The same with that SGD's statistics recomputed, where all its seeds have them."""
    plain, recomputed = (
        row.results.by_seed(phase="annealed", arm=arm, metric="accuracy")
        for arm in (BASELINE, SGD_BN)
    )
    if not plain.keys() <= recomputed.keys():
        return []
    return gain(
        row,
        EMA_ACC_BN,
        SGD_BN,
        metric="accuracy",
        phase=row.judged,
        of="annealed",
        better=f"test accuracy, EMA (acc.) at its epoch − {SGD_BN} annealed by then",
    )


def _no_more_than(
    what: str, first: RowEvidence, second: RowEvidence, values: Mapping[str, float]
) -> list[Hypothesis]:
    if not values:
        return []
    return [
        Hypothesis(
            what=what,
            row=f"{first.label} | {second.label}",
            values=values,
            side="below",
            bound=WORTH["accuracy"],
            refuted_at=WORTH["accuracy"],
            resolution=first.half_an_image("test"),
        )
    ]


def _between(first: RowEvidence, second: RowEvidence, arm: str) -> dict[str, float]:
    """Difference of an arm's test accuracies, by seed: of refits, else of the search's models."""
    for phase in PHASES:
        values = paired(
            first.results.by_seed(phase=phase, arm=arm, metric="accuracy"),
            second.results.by_seed(phase=phase, arm=arm, metric="accuracy"),
        )
        if values:
            return values
    return {}


def _learnt(row: RowEvidence, runs: Mapping[str, RunLog]) -> dict[str, list[float]]:
    """Share of the wrong labels that the longest window has learnt, by seed, over epochs."""
    return {
        seed: [scores[row.averages[-1]].accuracy for scores in log.part("train_wrong").values()]
        for seed, log in runs.items()
        if log.part("train_wrong")
    }


def _held_from(log: RunLog) -> int:
    """First epoch from which the learning rate no longer changes."""
    rates = [record.learning_rate for record in log.epochs]
    return 1 + min(i for i in range(len(rates)) if all(r == rates[-1] for r in rates[i:]))
