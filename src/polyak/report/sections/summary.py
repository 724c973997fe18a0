"""The sentences of a page: the headline of each row, and what its controls say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polyak.analysis.results import Phase, Result, values
from polyak.analysis.seeds import Interval, mean_interval, paired_difference
from polyak.records.studies import RowRecord
from polyak.report.facts import configuration, images_in_test, reason, wants_refits
from polyak.report.names import arm_name
from polyak.report.numbers import accuracy_digits, counted, number

HEADLINE_ARM, BASELINE = "ema_acc_bn", "sgd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What a row found, in a sentence, and what to hold against it."""

    label: str
    text: str
    verdict: str
    """As `headline.Effect`, or "missing"."""

    more: tuple[str, ...] = ()


def headline(out: Path, row: RowRecord, results: Sequence[Result]) -> Headline:
    """The paper's average against the baseline: test accuracy of a row's models, paired by seed."""
    digits = accuracy_digits(images_in_test(out, row) or 0)
    difference = compare(results, row, HEADLINE_ARM, BASELINE, metric="accuracy")
    if difference is None:
        why = row.failure or f"{reason(out, row, _phase(row))}."
        return Headline(label=row.label, text=f"No result: {why}", verdict="missing")
    found = effect(difference, unit="points", digits=digits, scale=100)
    ours, sgd = (
        number(100 * mean_interval(_by_seed(results, row, arm, "accuracy").values()).mean, digits)
        for arm in (HEADLINE_ARM, BASELINE)
    )
    text = (
        f"Test accuracy of {arm_name(HEADLINE_ARM)} is {ours} %, of {arm_name(BASELINE)} {sgd} %: "
        f"{found.text}."
    )
    more = (
        *_searched(row),
        *_against_stopped(results, row, digits),
        *_loss(results, row),
        *_granularity(out, row, difference),
        *_dropped(difference),
    )
    return Headline(label=row.label, text=text, verdict=found.verdict, more=more)


def controls(out: Path, row: RowRecord, results: Sequence[Result]) -> list[tuple[str, str]]:
    """Question and answer for each comparison that tells stopping from averaging."""
    digits = accuracy_digits(images_in_test(out, row) or 0)
    asked = (
        ("What stopping does without averaging", "sgd_stopped", "sgd"),
        ("What averaging does at one and the same epoch", "ema_acc_bn", "sgd_at_ema"),
        ("What is left if SGD may stop too", "ema_acc_bn", "sgd_stopped"),
    )
    answers = []
    for question, ours, baseline in asked:
        difference = compare(results, row, ours, baseline, metric="accuracy")
        if difference is not None:
            found = effect(difference, unit="points", digits=digits, scale=100)
            told = f"{arm_name(ours)} against {arm_name(baseline)}: {found.text}."
            answers.append((question, told))
    return answers


def compare(
    results: Sequence[Result], row: RowRecord, ours: str, baseline: str, *, metric: str
) -> Interval | None:
    """Paired difference of two arms over seeds; None where none has both."""
    sides = [
        {int(seed): value for seed, value in _by_seed(results, row, arm, metric).items()}
        for arm in (ours, baseline)
    ]
    return paired_difference(*sides) if sides[0].keys() & sides[1].keys() else None


def _phase(row: RowRecord) -> Phase:
    """The phase whose models a row is about."""
    return "refit" if wants_refits(row) else "search"


def _by_seed(results: Sequence[Result], row: RowRecord, arm: str, metric: str) -> dict[str, float]:
    return values(results, row=row.label, arm=arm, metric=metric, phase=_phase(row))


def _searched(row: RowRecord) -> tuple[str, ...]:
    if wants_refits(row):
        return ()
    return ("Models of the search only: this study trains nothing again on all images.",)


def _against_stopped(results: Sequence[Result], row: RowRecord, digits: int) -> tuple[str, ...]:
    difference = compare(results, row, HEADLINE_ARM, "sgd_stopped", metric="accuracy")
    if difference is None:
        return ()
    found = effect(difference, unit="points", digits=digits, scale=100)
    return (f"Against SGD stopped at its own best hold-out epoch it is {found.text}.",)


def _loss(results: Sequence[Result], row: RowRecord) -> tuple[str, ...]:
    difference = compare(results, row, HEADLINE_ARM, BASELINE, metric="loss")
    if difference is None:
        return ()
    return (f"Test loss is {effect(difference, unit='nats', digits=3).text}.",)


def _granularity(out: Path, row: RowRecord, difference: Interval) -> tuple[str, ...]:
    images = images_in_test(out, row)
    if not images or accuracy_digits(images) == 2:
        return ()
    one = number(100 / images, 2)
    text = f"The test set has {counted(images, 'image')}, so one image is {one} points."
    if difference.n > 1:
        text += " The interval covers chance between seeds, not the choice of test images."
    if (configuration(out, row) or {}).get("data", {}).get("test_limit") is not None:
        text += " These are a part of the data set's; polyak evaluate judges the weights by all."
    return (text,)


def _dropped(difference: Interval) -> tuple[str, ...]:
    if not difference.dropped:
        return ()
    seeds = ", ".join(map(str, difference.dropped))
    return (f"Seeds without both models are left out: {seeds}.",)


Verdict = Literal["higher", "lower", "unclear", "single"]


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
        scale: What a value is multiplied with to be in that unit.

    Example:
        >>> from polyak.analysis.seeds import mean_interval
        >>> effect(mean_interval([1.0, 2.0, 1.0]), unit="points", digits=1).text[:57]
        'higher by 1.3 points (95 % interval −0.1 to 2.8, 3 seeds)'
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
    meaning = {
        "unclear": "not distinguishable from no effect",
        "higher": "more than chance between seeds explains",
        "lower": "more than chance between seeds explains",
    }[verdict]
    return Effect(f"{size} (95 % interval {low} to {high}, {seeds}): {meaning}", verdict)


def _size(value: float, unit: str, digits: int) -> str:
    shown = number(abs(value), digits)
    if float(shown) == 0:
        return f"equal to within {number(0.5 * 10**-digits, digits + 1)} {unit}"
    return f"{'higher' if value > 0 else 'lower'} by {shown} {unit}"
