"""The sentences of a page: the headline of each row, and what its controls say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from polyak.analysis.claims.ledger import Entry
from polyak.analysis.loaded import LoadedRow
from polyak.analysis.seeds import Interval, mean_interval, paired_difference
from polyak.records.vocabulary import (
    BASELINE,
    EMA_ACC_BN,
    SGD_AT_EMA,
    SGD_AT_EMA_BN,
    SGD_BN,
    SGD_STOPPED,
    SGD_STOPPED_BN,
    SWA_BN,
)
from polyak.report.facts import accuracy_digits, reason
from polyak.report.names import arm_name, ordered
from polyak.report.numbers import counted, number, percent_digits

HEADLINE_ARM = EMA_ACC_BN
SUMMARISED = ("better-than-sgd", "noise", "annealed")
"""Claims of the ledger that are about what the headlines say."""

Verdict = Literal["higher", "lower", "unclear", "single"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What a row found, in a sentence, and its caveats."""

    label: str
    text: str
    verdict: str
    """"found" or "missing": what to make of it is the ledger's to say."""

    more: tuple[str, ...] = ()


def headline(row: LoadedRow) -> Headline:
    """The paper's average against the baseline: test accuracy of a row's models, paired by seed."""
    difference = compare(row, HEADLINE_ARM, BASELINE, metric="accuracy")
    if difference is None:
        why = row.record.failure or f"{reason(row, row.record.judged)}."
        return Headline(label=row.label, text=f"No result: {why}", verdict="missing")
    found = _points(row, difference)
    ours, sgd = (
        number(100 * mean_interval(by_seed.values()).mean, accuracy_digits(row))
        for by_seed in (_by_seed(row, arm, "accuracy") for arm in (HEADLINE_ARM, BASELINE))
    )
    text = (
        f"Test accuracy of {arm_name(HEADLINE_ARM)} is {ours} %, of {arm_name(BASELINE)} {sgd} %: "
        f"{found.text}."
    )
    more = (
        *_searched(row),
        *_against(row),
        *_loss(row),
        *_best(row),
        *_granularity(row, difference),
        *_dropped(difference),
    )
    return Headline(label=row.label, text=text, verdict="found", more=more)


def ledger_says(entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """What the ledger says of the headlines: the claim's id, its sentence, the verdict in words."""
    found = []
    for entry in entries:
        if entry.claim.id in SUMMARISED and entry.verdict != "not run":
            found.append((entry.claim.id, entry.claim.sentence, _verdicts(entry)))
    return found


def _verdicts(entry: Entry) -> str:
    if entry.own is None:
        return entry.verdict
    if entry.own.verdict == entry.verdict:
        return f"{entry.verdict}, against SGD’s best arm and by its own comparison"
    return f"{entry.verdict} against SGD’s best arm, by its own comparison {entry.own.verdict}"


def controls(row: LoadedRow) -> list[tuple[str, str]]:
    """Question and answer for each comparison that tells stopping from averaging."""
    questions = (
        ("What stopping does without averaging", SGD_STOPPED, BASELINE),
        ("What averaging does at one and the same epoch", EMA_ACC_BN, SGD_AT_EMA),
        ("What is left if SGD may stop too", EMA_ACC_BN, SGD_STOPPED),
        ("What recomputing BatchNorm statistics does without averaging", SGD_BN, BASELINE),
        ("What is left if SGD’s are recomputed too", EMA_ACC_BN, SGD_BN),
        ("– at one and the same epoch", EMA_ACC_BN, SGD_AT_EMA_BN),
        ("– if SGD may stop too", EMA_ACC_BN, SGD_STOPPED_BN),
    )
    answers = []
    for question, ours, baseline in questions:
        difference = compare(row, ours, baseline, metric="accuracy")
        if difference is not None:
            told = _points(row, difference).text
            answers.append((question, f"{arm_name(ours)} against {arm_name(baseline)}: {told}."))
    return answers


def compare(row: LoadedRow, ours: str, baseline: str, *, metric: str) -> Interval | None:
    """Paired difference of two arms over seeds; None where none has both."""
    sides = [
        {int(seed): value for seed, value in _by_seed(row, arm, metric).items()}
        for arm in (ours, baseline)
    ]
    return paired_difference(*sides) if sides[0].keys() & sides[1].keys() else None


def _by_seed(row: LoadedRow, arm: str, metric: str) -> Mapping[str, float]:
    return row.results.by_seed(phase=row.record.judged, arm=arm, metric=metric)


def _points(row: LoadedRow, difference: Interval) -> "Effect":
    return effect(difference, unit="points", digits=accuracy_digits(row), scale=100)


def _searched(row: LoadedRow) -> tuple[str, ...]:
    if row.record.refits:
        return ()
    return ("Models of the search only: this study trains nothing again on all training data.",)


def _best(row: LoadedRow) -> tuple[str, ...]:
    """The arm of highest mean, and SWA where that is another."""
    phase = row.record.judged
    known = ordered({r.arm for r in row.results if (r.phase, r.target) == (phase, "test")})
    means = {
        arm: mean_interval(by_seed.values()).mean
        for arm in known
        if (by_seed := _by_seed(row, arm, "accuracy"))
    }
    best = max(means, key=lambda arm: means[arm])
    text = f"Of {len(means)} arms the most accurate in the mean is {_placed(row, best, means)}."
    if best != BASELINE:
        text += " It was found by looking at the test set, so its lead is rather too large."
    if SWA_BN not in means or best == SWA_BN:
        return (text,)
    return text, f"{_placed(row, SWA_BN, means)}."


def _placed(row: LoadedRow, arm: str, means: Mapping[str, float]) -> str:
    """An arm with its mean and its distance from SGD."""
    text = f"{arm_name(arm)} with {number(100 * means[arm], accuracy_digits(row))} %"
    difference = None if arm == BASELINE else compare(row, arm, BASELINE, metric="accuracy")
    if difference is None:
        return text
    return f"{text}, against {arm_name(BASELINE)} {_points(row, difference).text}"


def _against(row: LoadedRow) -> tuple[str, ...]:
    found = []
    for baseline, words in (
        (SGD_STOPPED, "SGD stopped at its own best hold-out epoch"),
        (SGD_BN, "SGD whose BatchNorm statistics are recomputed too"),
    ):
        difference = compare(row, HEADLINE_ARM, baseline, metric="accuracy")
        if difference is not None:
            found.append(f"Against {words} it is {_points(row, difference).text}.")
    return tuple(found)


def _loss(row: LoadedRow) -> tuple[str, ...]:
    difference = compare(row, HEADLINE_ARM, BASELINE, metric="loss")
    if difference is None:
        return ()
    return (f"Test loss is {effect(difference, unit='nats', digits=3).text}.",)


def _granularity(row: LoadedRow, difference: Interval) -> tuple[str, ...]:
    images = row.test_images
    if not images or percent_digits(images) == 2:
        return ()
    one = number(100 / images, 2)
    what = "position" if row.is_text else "image"
    text = f"The test set has {counted(images, what)}, so one {what} is {one} points."
    if difference.n > 1:
        text += f" The interval covers chance between seeds, not the choice of test {what}s."
    if (row.config or {}).get("data", {}).get("test_limit") is not None:
        text += " These are some of the data set's; polyak evaluate evaluates on all of them."
    return (text,)


def _dropped(difference: Interval) -> tuple[str, ...]:
    if not difference.dropped:
        return ()
    seeds = ", ".join(map(str, difference.dropped))
    return (f"Seeds without both models are left out: {seeds}.",)


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference in words."""

    text: str
    verdict: Verdict
    """higher, lower: the interval excludes 0. unclear: it does not, or has no width.
    single: one seed only."""


def effect(difference: Interval, *, unit: str, digits: int, scale: float = 1.0) -> Effect:
    """A paired difference as half a sentence, after "… is".

    Args:
        difference: Ours − baseline over seeds.
        unit: As the sentence has it, such as "points".
        digits: Decimals shown.
        scale: What a value is multiplied by to be in that unit.

    Example:
        >>> from polyak.analysis.seeds import mean_interval
        >>> effect(mean_interval([1.0, 2.0, 1.0]), unit="points", digits=1).text
        'higher by 1.3 points (95 % interval −0.1 to 2.8, 0 among them; 3 seeds)'
    """
    size = _size(difference.mean * scale, unit, digits)
    if difference.low is None or difference.high is None:
        return Effect(f"{size} in the only seed: without a second one this may be chance", "single")
    seeds = counted(difference.n, "seed")
    if difference.low == difference.high:
        return Effect(
            f"{size} in each of {seeds}: no spread to judge by, so no interval", "unclear"
        )
    low, high = (number(end * scale, digits) for end in (difference.low, difference.high))
    verdict: Verdict = "unclear"
    if difference.low > 0 or difference.high < 0:
        verdict = "higher" if difference.low > 0 else "lower"
    # Whether that is more than chance is for the ledger to say, which knows what else was tried.
    zero = ", 0 among them" if verdict == "unclear" else ""
    return Effect(f"{size} (95 % interval {low} to {high}{zero}; {seeds})", verdict)


def _size(value: float, unit: str, digits: int) -> str:
    shown = number(abs(value), digits)
    if float(shown) == 0:
        return f"equal to within {number(0.5 * 10**-digits, digits + 1)} {unit}"
    return f"{'higher' if value > 0 else 'lower'} by {shown} {unit}"
