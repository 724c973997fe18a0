"""How an EMA's decay rises to its final value, in the forms that users of other tools come from.

A warm-up gives d_t, the decay of the update at hand. t is what was counted before it and starts
at 0; what is counted, updates or optimizer steps, is the EMA's setting `warmup_counts`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import exp, inf
from typing import Any, ClassVar, Literal

from polyak.errors import ConfigError, unknown
from polyak.numbers import as_plain, is_number

_HORIZON = 2**62
"""Counts that no run reaches."""


class Warmup(ABC):
    """How d_t, the decay of an update, comes to be the decay d that was asked for.

    t is what was counted before the update, and `span` how much of it the update stands for.
    """

    tolerance: ClassVar[float] = 0.0
    """How far above 1 − d the weight 1 − d_t may be where a warm-up counts as over, as a share."""

    @abstractmethod
    def decay_at(self, decay: float, t: int, span: int = 1) -> float:
        """d_t, in [0, decay]."""

    @abstractmethod
    def governs(self, decay: float, t: int, span: int = 1) -> bool:
        """Whether the warm-up alone sets d_t, so that averages of larger decays have the same."""

    @abstractmethod
    def is_over(self, decay: float, t: int, span: int = 1) -> bool:
        """Whether d_t is the decay, from t on."""

    def faults(self, decay: float) -> list[str]:
        """What is wrong with it for a decay per update."""
        return []

    def end(self, decay: float, span: int = 1) -> int | None:
        """The smallest t at which it is over; None if no run gets there.

        Example:
            >>> Ratio().end(0.998), Ratio(first=2).end(0.998)
            (4490, 4489)
        """
        high = 0
        while not self.is_over(decay, high, span) and high < _HORIZON:
            high = 2 * high + 1
        low = high // 2 if high else 0
        while low < high:
            middle = (low + high) // 2
            over = self.is_over(decay, middle, span)
            low, high = (low, middle) if over else (middle + 1, high)
        return None if high >= _HORIZON else high


class Ramp(Warmup):
    """A warm-up that rises by itself until the decay cuts it off:  d_t = min(decay, rise)."""

    @abstractmethod
    def rise(self, t: int, span: int = 1) -> float:
        """The decay that the warm-up alone would set; most do not depend on the span."""

    def decay_at(self, decay: float, t: int, span: int = 1) -> float:
        """The lesser of both."""
        return min(decay, self.rise(t, span))

    def governs(self, decay: float, t: int, span: int = 1) -> bool:
        """Until it has passed the decay."""
        return self.rise(t, span) <= decay

    def is_over(self, decay: float, t: int, span: int = 1) -> bool:
        """Once it has reached the decay."""
        return self.rise(t, span) >= decay


_POSITIVE = (lambda x: 0 < x < inf, "> 0, and finite")


def _require(warmup: Any, **rules: tuple[Callable[[float], bool], str]) -> None:
    """Refuse settings that are no numbers or break a rule, given with its words."""
    values = {name: as_plain(getattr(warmup, name)) for name in rules}
    for name, value in values.items():
        object.__setattr__(warmup, name, value)
    faults = [
        f"{name} is {values[name]!r}; expected {expected}"
        for name, (fine, expected) in rules.items()
        if not is_number(values[name]) or not fine(values[name])
    ]
    if faults:
        raise ConfigError.of(type(warmup).__name__, faults)


@dataclass(frozen=True)
class Ratio(Ramp):
    """Decay of a growing mean: the profile is a power of time with γ = 8 while it rises.

        d_t = min(decay, (t + first)/(t + first + 9)),   d_t = 0 for t < copies

    Args:
        first: The numerator at t = 0, ≥ 1.
        copies: How many of the first updates only copy the weights, ≥ 0.

    Source:
        `tf.train.ExponentialMovingAverage` and "Exponential Moving Average of Weights in Deep
        Learning", section 4.1, with their t from 0 ("paper"). torch-ema counts before it asks,
        so that its first decay is 2/11 ("torch_ema"). diffusers without `use_ema_warmup` copies
        once and goes on with 2/11 ("diffusers").

    Example:
        >>> [round(Ratio().rise(t), 3) for t in range(3)]
        [0.1, 0.182, 0.25]
    """

    first: int = 1
    copies: int = 0

    def __post_init__(self) -> None:
        _require(self, first=(lambda x: x >= 1, ">= 1"), copies=(lambda x: x >= 0, ">= 0"))

    def rise(self, t: int, span: int = 1) -> float:
        """The decay that the warm-up alone would set."""
        return (t + self.first) / (t + self.first + 9) if t >= self.copies else 0.0


@dataclass(frozen=True)
class InverseGamma(Ramp):
    """Decay that approaches 1 like a power of the count; the first update copies the weights.

        d_t = clip(1 − (1 + x/γ)^(−p), min_decay, decay),   x = t − after,   d_t = 0 for x ≤ 0

    γ = p = 1 is the plain mean. At γ = 1 and p = 2/3, 0.999 is reached after 31.6 thousand counts
    and 0.9999 after a million; at p = 3/4 after 10 and 215 thousand.

    Args:
        gamma: γ > 0, the count at which the decay begins to rise in earnest.
        power: p > 0.
        min_decay: Least decay once x > 0, in [0, decay].
        after: Counts during which an update only copies the weights: `update_after_step`, ≥ 0.

    Source:
        K. Crowson's warm-up, as in timm's `ModelEmaV3(use_warmup=True)` when each call gets
        `step=` from 1, ema-pytorch (whose period counts from its first call, ours from the first
        step), and diffusers' `EMAModel(use_ema_warmup=True)`: there t = 0, 1, … as here.

    Example:
        >>> [round(InverseGamma(power=1.0).rise(t), 3) for t in range(4)]
        [0.0, 0.5, 0.667, 0.75]
    """

    gamma: float = 1.0
    power: float = 2 / 3
    min_decay: float = 0.0
    after: int = 0

    def __post_init__(self) -> None:
        _require(
            self,
            gamma=_POSITIVE,
            power=_POSITIVE,
            min_decay=(lambda x: 0 <= x < 1, "0 <= min_decay < 1"),
            after=(lambda x: x >= 0, ">= 0"),
        )

    def faults(self, decay: float) -> list[str]:
        """A least decay above the decay."""
        if self.min_decay <= decay:
            return []
        return [
            f"min_decay of the warm-up is {self.min_decay!r}; "
            f"expected <= decay per update ({decay!r})"
        ]

    def rise(self, t: int, span: int = 1) -> float:
        """The decay that the warm-up alone would set."""
        x = t - self.after
        if x <= 0:
            return 0.0
        return max(self.min_decay, 1.0 - float((1.0 + x / self.gamma) ** -self.power))


@dataclass(frozen=True)
class HalfLifeRamp(Ramp):
    """Half-life of at most a share of what has been counted so far: scale-free, like a power EMA.

        d_t = min(decay, 2^(−Δ/(ratio·s))),   s = t + 1 counted so far, Δ of them for this update

    Args:
        ratio: Largest half-life over the length of the run so far, > 0.

    Source:
        EDM (ratio 0.05, whose s is one batch behind) and EDM2's traditional EMA (ratio 0.09),
        with images for counts. The same whatever is counted as long as updates are regular.

    Example:
        >>> round(HalfLifeRamp(ratio=1.0).rise(0), 3)
        0.5
    """

    ratio: float = 0.09

    def __post_init__(self) -> None:
        _require(self, ratio=_POSITIVE)

    def rise(self, t: int, span: int = 1) -> float:
        """The decay that the warm-up alone would set."""
        return float(2.0 ** (-span / (self.ratio * (t + 1)))) if t >= 0 else 0.0


@dataclass(frozen=True)
class Exponential(Warmup):
    """Decay scaled by a saturating exponential; it approaches its final value without end.

        d_t = decay·(1 − e^(−(t + 1)/tau))

    Args:
        tau: Time constant in counts, > 0.

    Source:
        `ModelEMA` of YOLOv5 and Ultralytics, tau 2000 in updates.

    Note:
        Warm-up lasts longer than tau says: the weight 1 − d_t of new weights is within 1 % of
        its final value only after tau·ln(100·decay/(1 − decay)) counts, 27,600 for 0.9999.
    """

    tolerance: ClassVar[float] = 0.01

    tau: float = 2000.0

    def __post_init__(self) -> None:
        _require(self, tau=_POSITIVE)

    def share(self, t: int) -> float:
        """d_t over its final value, in [0, 1]."""
        return 1.0 - exp(-(t + 1) / self.tau)

    def decay_at(self, decay: float, t: int, span: int = 1) -> float:
        """That share of the decay."""
        return decay * self.share(t)

    def governs(self, decay: float, t: int, span: int = 1) -> bool:
        """Never alone: every d_t depends on the decay."""
        return False

    def is_over(self, decay: float, t: int, span: int = 1) -> bool:
        """Once 1 − d_t is within 1 % of its final value."""
        return 1.0 - self.decay_at(decay, t) <= (1.0 + self.tolerance) * (1.0 - decay)


WarmupName = Literal["paper", "torch_ema", "diffusers", "inverse_gamma", "edm2", "yolo"]
WARMUPS: dict[WarmupName, Warmup] = {
    "paper": Ratio(),
    "torch_ema": Ratio(first=2),
    "diffusers": Ratio(copies=1),
    "inverse_gamma": InverseGamma(),
    "edm2": HalfLifeRamp(),
    "yolo": Exponential(),
}
_KINDS: dict[str, type[Warmup]] = {
    "ratio": Ratio,
    "inverse_gamma": InverseGamma,
    "half_life_ramp": HalfLifeRamp,
    "exponential": Exponential,
}


def canonical(warmup: Any) -> WarmupName | Warmup | None:
    """A warm-up by its name where it has one, so that equal ones compare equal.

    Raises:
        ConfigError: for a name or an object that is no warm-up.
    """
    if isinstance(warmup, Warmup):
        return next((name for name, known in WARMUPS.items() if known == warmup), warmup)
    if isinstance(warmup, str):
        named = next((name for name in WARMUPS if name == warmup), None)
        if named is None:
            raise ConfigError(unknown("warmup", warmup, WARMUPS))
        return named
    if warmup is not None:
        raise ConfigError(
            f"warmup is {warmup!r}; expected None, a warm-up or one of {', '.join(WARMUPS)}."
        )
    return None


def warmup_record(warmup: WarmupName | Warmup | None) -> Any:
    """The warm-up as plain JSON values: its name, or its kind with its settings."""
    if warmup is None or isinstance(warmup, str):
        return warmup
    cls: Any = type(warmup)
    kind = next((name for name, known in _KINDS.items() if known is cls), cls.__name__)
    return {"kind": kind, **asdict(warmup)}  # type: ignore[call-overload]


def warmup_from_record(record: Any) -> Any:
    """The warm-up that `warmup_record` described."""
    if not isinstance(record, dict):
        return record
    settings = dict(record)
    kind = str(settings.pop("kind", None))
    if kind not in _KINDS:
        raise ConfigError(unknown("warm-up", kind, _KINDS))
    return _KINDS[kind](**settings)
