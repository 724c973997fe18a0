"""Claims that a study declares, judged as the paper's are: comparisons become hypotheses."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from polyak.analysis.claims.claim import (
    FRACTION_OF_IMAGES,
    METRICS,
    Claim,
    arms_of_sgd,
    equivalent,
    paired,
    pseudo_values,
)
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.extremes import place_in_others
from polyak.analysis.claims.verdicts import Hypothesis, Side
from polyak.analysis.loaded import RunLog, Scores
from polyak.records import claims as declared
from polyak.records.claims import (
    BEST_AVERAGE,
    BEST_OF_SGD,
    LONGEST_AVERAGE,
    OF_PAIRS,
    SCALES,
    SHORTEST_AVERAGE,
    Comparison,
)
from polyak.records.vocabulary import EMA_ACC, EMA_LOSS, SGD_BN, SGD_STOPPED, Phase, Rule

Values = Mapping[str, float]
"""By seed, or by pair of seeds."""

_RULES: dict[str, Rule] = {SGD_STOPPED: "sgd", EMA_ACC: "acc", EMA_LOSS: "loss"}
_IMAGES = {
    "holdout": "holdout",
    "holdout_bn": "holdout",
    "test": "test",
    "test_bn": "test",
    "train_wrong": "wrong",
}
"""What of the data each part of a log is scored on, where its size is known."""

_WHEN: dict[Phase, str] = {
    "search": " in the search",
    "refit": "",
    "transfer": "",
    "held": " with its rate held",
    "annealed": " annealed by then",
}


def judgeable(claim: declared.Claim) -> Claim:
    """A declared claim as the ledger takes it."""
    return Claim(
        id=claim.id,
        sentence=claim.sentence,
        source="this study’s own",
        test=f"{'; '.join(in_words(each) for each in claim.comparisons)}.",
        needs="finished runs of its rows",
        preset="",
        hypotheses=_hypotheses_of(claim),
    )


def in_words(comparison: Comparison) -> str:
    """A comparison in words.

    Example:
        >>> of = {"row": "mine", "metric": "accuracy", "arm": "ema_acc_bn", "unit": "points"}
        >>> in_words(Comparison(**of, against="sgd", side="above", bound=0))
        'mine: test accuracy, ema_acc_bn − sgd, is above 0 points'
        >>> early = {"arm": "best average", "phase": "search", "at": 0.25, "part": "holdout"}
        >>> in_words(Comparison(**of | early, against="sgd", side="within", bound=0.5))
        'mine: hold-out accuracy at 25 % of the run, best average − sgd, is within 0.5 points of 0'
    """
    against = None
    if comparison.against is not None:
        best = comparison.against == BEST_OF_SGD
        against = "each arm of SGD" if best else comparison.against
    what = _what(comparison, against, comparison.against_phase or comparison.phase)
    unit = {"share": " of the run", "score": ""}.get(comparison.unit, f" {comparison.unit}")
    end = f"{comparison.side} {comparison.bound:g}{unit}".replace("-", "−")
    each = " in every seed" if comparison.every_seed else ""
    zero = " of 0" if comparison.side == "within" else ""
    return f"{' | '.join(comparison.rows)}: {what}, is {end}{zero}{each}"


def comparison_hypotheses(
    comparison: Comparison, rows: Sequence[RowEvidence], *, seeds: Sequence[int] = ()
) -> list[Hypothesis]:
    """The hypotheses of a comparison: one for each side of it and each arm that it is against.

    Args:
        comparison: With the place where it is refuted.
        rows: Evidence of a study's rows.
        seeds: Those that count; none given: all.
    """
    by_label = {row.label: row for row in rows}
    if not all(label in by_label for label in comparison.rows):
        return []
    ours, theirs = by_label[comparison.rows[0]], by_label[comparison.rows[-1]]
    own = _only(_numbers(comparison, ours, comparison.arm, comparison.phase), seeds)
    found = []
    for phase, arm in _opposed(comparison, own, theirs):
        values = own if arm is None else paired(own, _numbers(comparison, theirs, arm, phase, True))
        values = pseudo_values(values) if comparison.metric in OF_PAIRS else values
        if values:
            what = _what(comparison, arm, phase)
            found += _placed(comparison, what, values, _resolution(comparison, ours))
    return found


def _hypotheses_of(claim: declared.Claim) -> Callable[[Sequence[RowEvidence]], list[Hypothesis]]:
    """All or nothing: a part of a claim is not the claim."""

    def hypotheses(rows: Sequence[RowEvidence]) -> list[Hypothesis]:
        parts = [comparison_hypotheses(c, rows, seeds=claim.seeds) for c in claim.comparisons]
        return [found for part in parts for found in part] if all(parts) else []

    return hypotheses


def _opposed(
    comparison: Comparison, own: Values, theirs: RowEvidence
) -> Iterator[tuple[Phase, str | None]]:
    """Phase and arm of each other number; none of them where the best of SGD is not known.

    A network with BatchNorm has to have SGD with recomputed statistics, as averages have them.
    """
    phase = comparison.against_phase or comparison.phase
    if comparison.against != BEST_OF_SGD:
        yield phase, comparison.against
        return
    arms = arms_of_sgd(theirs, own, metric=comparison.metric, phase=phase)
    if theirs.batchnorm is False or (phase, SGD_BN) in arms:
        yield from arms


def _placed(
    comparison: Comparison, what: str, values: Values, resolution: float
) -> list[Hypothesis]:
    """A number with its bounds, as records have them."""
    scale, row = SCALES[comparison.unit], " | ".join(comparison.rows)
    bound = comparison.bound * scale
    if comparison.side == "within":
        sides = equivalent(what, row, values, margin=bound, resolution=resolution)
        return [replace(each, unit=comparison.unit) for each in sides]
    side: Side = comparison.side
    return [
        Hypothesis(
            what=f"{what}, every seed" if comparison.every_seed else what,
            row=row,
            values=values,
            side=side,
            bound=bound,
            refuted_at=None if comparison.refuted_at is None else comparison.refuted_at * scale,
            unit=comparison.unit,
            resolution=resolution,
            every_seed=comparison.every_seed,
        )
    ]


def _numbers(
    comparison: Comparison, row: RowEvidence, arm: str, phase: Phase, other: bool = False
) -> Values:
    """The metric of an arm, by seed; empty where it was not measured."""
    if comparison.at is not None:
        part = (comparison.against_part if other else None) or comparison.part
        return _from_curve(comparison, row, arm, _logs(row, phase), part)
    if comparison.metric == "epoch":
        rule = _RULES[arm]
        return {s: at[rule].epoch / row.budget for s, at in row.stops.items() if rule in at}
    return row.results.by_seed(
        phase=phase, arm=arm, metric=comparison.metric, target=comparison.target
    )


def _from_curve(
    comparison: Comparison, row: RowEvidence, arm: str, logs: Mapping[str, RunLog], part: str
) -> Values:
    """The mean over the epochs that the comparison is about, of runs that have scores of all."""
    assert comparison.at is not None
    first, last = (
        max(1, math.ceil(share * row.budget))
        for share in (comparison.at, comparison.until or comparison.at)
    )
    epochs = range(first, last + 1)
    curves = {seed: log.part(part) for seed, log in logs.items()}
    whole = {seed: c for seed, c in curves.items() if all(epoch in c for epoch in epochs)}
    at_epochs = [
        _of_weights({s: c[e] for s, c in whole.items()}, row.averages, arm, comparison.metric)
        for e in epochs
    ]
    seeds = [seed for seed in whole if all(seed in at for at in at_epochs)]
    return {seed: math.fsum(at[seed] for at in at_epochs) / len(epochs) for seed in seeds}


def _of_weights(
    scores: Mapping[str, Scores], averages: Sequence[str], weights: str, metric: str
) -> dict[str, float]:
    """A score of these weights at an epoch, by seed."""
    if weights == BEST_AVERAGE:
        bank = {seed: [getattr(at[a], metric) for a in averages] for seed, at in scores.items()}
        best = max if metric == "accuracy" else min
        return {seed: bank[seed][i] for seed, i in place_in_others(bank, best).items()}
    ends = {SHORTEST_AVERAGE: averages[0], LONGEST_AVERAGE: averages[-1]}
    name = ends.get(weights, weights)
    return {seed: getattr(at[name], metric) for seed, at in scores.items() if name in at}


def _logs(row: RowEvidence, phase: Phase) -> Mapping[str, RunLog]:
    by_phase: dict[Phase, Mapping[str, RunLog]] = {
        "search": row.search,
        "refit": row.refit,
        "held": row.held,
        "annealed": row.annealed,
    }
    return by_phase.get(phase, {})


def _only(values: Values, seeds: Sequence[int]) -> Values:
    """Those of the seeds, or of pairs of them."""
    wanted = {str(seed) for seed in seeds}
    return {key: x for key, x in values.items() if not seeds or set(key.split("-")) <= wanted}


def _resolution(comparison: Comparison, row: RowEvidence) -> float:
    """What the values cannot tell apart."""
    if comparison.metric == "epoch":
        return 0.5 / row.budget
    if comparison.metric == "memorised":
        return row.half_an_image("wrong")
    if comparison.kind not in FRACTION_OF_IMAGES:
        return 0.0
    if comparison.at is not None:
        return row.half_an_image(_IMAGES.get(comparison.part, ""))
    return row.half_an_image(
        "holdout" if comparison.metric != comparison.kind else comparison.target
    )


def _what(comparison: Comparison, against: str | None, phase: Phase) -> str:
    """The number in words."""
    curve = comparison.at is not None
    ours = f"{comparison.arm}{'' if curve else _WHEN[comparison.phase]}"
    if comparison.against_part:
        ours += f" on {comparison.part}"
    if against is not None:
        elsewhere = comparison.against_row is not None
        when = "" if curve or phase == comparison.phase else _WHEN[phase]
        ours += f" − {against}{when}"
        ours += f" on {comparison.against_part}" if comparison.against_part else ""
        ours += f" of {comparison.against_row}" if elsewhere else ""
    return f"{_measured(comparison)}, {ours}"


def _measured(comparison: Comparison) -> str:
    metric = METRICS[comparison.metric]
    if comparison.at is None:
        if comparison.phase == "transfer":
            return f"accuracy on {comparison.target} by a linear probe"
        return metric
    part = "hold-out" if comparison.part == "holdout" else comparison.part
    end = "" if comparison.until is None else f" to {100 * comparison.until:g}"
    return f"{part} {comparison.metric} at {100 * comparison.at:g}{end} % of the run"
