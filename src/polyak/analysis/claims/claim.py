"""A claim of the paper, and the helpers that turn evidence into hypotheses."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.verdicts import Hypothesis, Side
from polyak.records.claims import WORTH
from polyak.records.vocabulary import (
    BASELINE,
    SGD_AT_EMA,
    SGD_AT_EMA_BN,
    SGD_BN,
    SGD_STOPPED,
    SGD_STOPPED_BN,
    Phase,
)

EQUAL = 0.005
"""Margin within which two accuracies count as equal: half a point."""

METRICS = {
    "accuracy": "test accuracy",
    "loss": "test loss",
    "churn": "churn",
    "js": "Jensen-Shannon divergence",
    "ece": "ECE",
    "ece_scaled": "ECE with a temperature",
    "loss_scaled": "test loss with a temperature",
    "brier": "Brier score",
    "memorised": "wrong labels memorised",
    "holdout_accuracy": "hold-out accuracy",
    "epoch": "epoch chosen, share of the run",
}
SGD_ARMS = (BASELINE, SGD_BN, SGD_STOPPED, SGD_STOPPED_BN, SGD_AT_EMA, SGD_AT_EMA_BN)
"""Plain training after the last epoch and at two stops, with statistics as trained and recomputed:
whoever would have SGD could have had any of these."""

_ANNEALED: tuple[tuple[Phase, str], ...] = (("annealed", BASELINE), ("annealed", SGD_BN))
FRACTION_OF_IMAGES = ("accuracy", "churn")

Hypotheses = Callable[[Sequence[RowEvidence]], list[Hypothesis]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A sentence that runs can bear out or refute."""

    id: str
    sentence: str
    source: str
    """Where the paper says it, or "ours"."""

    test: str
    """What decides it, in a sentence."""

    needs: str
    """Which runs and monitors it rests on."""

    preset: str
    """The study that has them."""

    scale: str | None = None
    """The only scale at which it has them; None for any."""

    hypotheses: Hypotheses
    """From a study's rows; nothing where no row has the evidence."""

    rivals: Hypotheses = lambda rows: []
    """The same against SGD's other arms, of rows that have SGD with recomputed statistics: an
    average that beats SGD is to beat the best of them, and so each. Nothing where a claim is not
    about an average against SGD."""


def in_each(hypotheses: Callable[[RowEvidence], Sequence[Hypothesis]]) -> Hypotheses:
    """The hypotheses of every row that trains as the paper does."""
    return lambda rows: [found for row in rows if ordinary(row) for found in hypotheses(row)]


def ordinary(row: RowEvidence) -> bool:
    """Whether a row follows the paper's protocol: cosine, nothing fed back into SGD, and no
    variation of another row."""
    settings = row.settings
    cosine = settings.get("optim.schedule", "cosine") == "cosine"
    return cosine and settings.get("bootstrap") is None and row.against is None


def equivalent(
    what: str, row: str, values: Mapping[str, float], *, margin: float, resolution: float = 0.0
) -> list[Hypothesis]:
    """The mean is within a margin of 0: two one-sided tests (TOST)."""
    if not values:
        return []
    sides: tuple[tuple[str, Side, float], ...] = (
        ("lower", "above", -margin),
        ("higher", "below", margin),
    )
    return [
        Hypothesis(
            what=f"{what}: no {word}",
            row=row,
            values=values,
            side=side,
            bound=bound,
            refuted_at=bound,
            resolution=resolution,
        )
        for word, side, bound in sides
    ]


def gain(
    row: RowEvidence,
    ours: str,
    baseline: str,
    *,
    metric: str,
    phase: Phase = "refit",
    of: Phase | None = None,
    target: str = "test",
    better: str | None = None,
) -> list[Hypothesis]:
    """One arm is better than another in a metric: a hypothesis, or none where no seed has both.

    Args:
        row: With the numbers.
        ours: The arm that is to be better.
        baseline: The other.
        metric: Of `METRICS`.
        phase: Whose models are compared.
        of: The baseline's, where it is another.
        target: What is tested on.
        better: What is said to be better; None: metric and arms.
    """
    kind = metric.removesuffix("_scaled")
    pairwise = kind in ("churn", "js")
    values = paired(
        row.results.by_seed(phase=phase, arm=ours, metric=metric, target=target),
        row.results.by_seed(phase=of or phase, arm=baseline, metric=metric, target=target),
    )
    if pairwise:
        values = pseudo_values(values)
    if not values:
        return []
    higher = kind == "accuracy"
    return [
        Hypothesis(
            what=better or f"{METRICS[metric]}, {ours} − {baseline}",
            row=row.label,
            values=values,
            side="above" if higher else "below",
            refuted_at=WORTH[kind] if higher else -WORTH[kind],
            unit="nats" if kind in ("loss", "js") else "points",
            resolution=row.half_an_image(target) if kind in FRACTION_OF_IMAGES else 0.0,
        )
    ]


def best_of_sgd(
    row: RowEvidence, ours: str, *, metric: str, phase: Phase = "refit", besides: tuple[Phase, str]
) -> list[Hypothesis]:
    """One arm is better than every arm of SGD in a metric, so than the best: one hypothesis each.

    No arm is chosen, so none by what it is judged by. All seeds that have the average have the
    arm, or it does not count. Nothing for a row that lacks SGD's last weights recomputed.

    Args:
        row: With the numbers.
        ours: The average's arm.
        metric: Of `METRICS`.
        phase: Whose models are compared; with those that the row is about, annealed ones count too.
        besides: Phase and arm that the claim is about already.
    """
    mine = row.results.by_seed(phase=phase, arm=ours, metric=metric)
    if not mine or (phase, SGD_BN) not in arms_of_sgd(row, mine, metric=metric, phase=phase):
        return []
    found = []
    for of, arm in arms_of_sgd(row, mine, metric=metric, phase=phase):
        if (of, arm) != besides:
            when = " annealed by then" if of == "annealed" else ""
            found += gain(
                row,
                ours,
                arm,
                metric=metric,
                phase=phase,
                of=of,
                better=f"{METRICS[metric]}, {ours} − {arm}{when}",
            )
    return found


def arms_of_sgd(
    row: RowEvidence, seeds: Collection[str], *, metric: str, phase: Phase
) -> list[tuple[Phase, str]]:
    """SGD's arms that all these seeds, or pairs of seeds, have, annealed ones too."""
    of_phase = [(phase, arm) for arm in SGD_ARMS]
    return [
        (of, arm)
        for of, arm in (*of_phase, *(_ANNEALED if phase == row.judged else ()))
        if set(seeds) <= row.results.by_seed(phase=of, arm=arm, metric=metric).keys()
    ]


def paired(ours: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """Ours − baseline for the seeds that both have."""
    return {seed: ours[seed] - baseline[seed] for seed in ours if seed in baseline}


def pseudo_values(by_pair: Mapping[str, float]) -> dict[str, float]:
    """One number a run from numbers about pairs of runs, by the jackknife over runs.

        x_s = n·θ − (n−1)·θ_{−s},   θ the mean over pairs, θ_{−s} over those without run s

    Pairs share runs, so n·(n−1)/2 of them are not as many independent numbers; these n nearly
    are, and their mean is θ.

    Args:
        by_pair: Seeds joined by "-" to number.

    Returns:
        By seed; nothing for under three runs, or where a pair is missing.

    Source:
        Arvesen 1969, on jackknifing U-statistics.

    Example:
        >>> pseudo_values({"0-1": 1.0, "0-2": 2.0, "1-2": 3.0})
        {'0': 0.0, '1': 2.0, '2': 4.0}
    """
    runs = sorted({seed for pair in by_pair for seed in pair.split("-")})
    n = len(runs)
    if n < 3 or len(by_pair) != n * (n - 1) // 2:
        return {}
    whole = sum(by_pair.values()) / len(by_pair)
    found = {}
    for run in runs:
        others = [value for pair, value in by_pair.items() if run not in pair.split("-")]
        found[run] = n * whole - (n - 1) * sum(others) / len(others)
    return found


def varied(
    rows: Sequence[RowEvidence], is_variant: Callable[[RowEvidence], bool]
) -> Iterator[tuple[RowEvidence, RowEvidence]]:
    """Rows with those that vary them in one respect, such as the period."""
    by_label = {row.label: row for row in rows}
    for row in rows:
        if row.against in by_label and is_variant(row):
            yield by_label[row.against], row
