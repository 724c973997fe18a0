"""What a difference over seeds says, in words that do not say more than the numbers."""

from dataclasses import dataclass
from typing import Literal

from polyak.analysis.seeds import Interval
from polyak.report.numbers import counted, number

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
