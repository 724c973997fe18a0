"""What an average is: a schedule of lerp weights.

Update number t of every kind is  m ← m + w·(x − m),  w = 1 − d,  where x are the model's
weights and m the average's. The kinds differ only in w, so they live side by side in one bank.
A `Window` alone forgets weights entirely, and keeps its snapshots beside its mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from math import inf
from numbers import Real
from typing import Any

from polyak.averaging.kinds.ema import EMA, Update
from polyak.averaging.kinds.schedule import Schedule
from polyak.averaging.kinds.warmups import warmup_from_record, warmup_record
from polyak.averaging.kinds.window import Window
from polyak.errors import ConfigError, unknown

__all__ = [
    "EMA",
    "KINDS",
    "Average",
    "PowerEMA",
    "Schedule",
    "Uniform",
    "Update",
    "Window",
    "as_average",
    "from_record",
    "to_record",
]


@dataclass(frozen=True)
class PowerEMA:
    """Average with a power-law profile: the weight of the iterate at step s grows like s^γ.

        d = (1 − Δ/t)^(γ+1),   t steps so far, Δ of them since the last update

    Its width keeps a fixed share of the run, however long that is. Give either γ or the
    relative width σ_rel = sqrt((γ+1) / ((γ+2)²·(γ+3))).

    Args:
        sigma_rel: Standard deviation of the profile over the length of the run, in (0, 0.2887).
        gamma: Exponent γ > 0.
        name: `power_<sigma_rel>` if None.

    Source:
        Karras et al. 2024 (EDM2), equations 3 to 5 of section 3.1.

    Example:
        >>> round(PowerEMA(sigma_rel=0.1).exponent, 2)
        6.94
    """

    sigma_rel: float | None = None
    gamma: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.sigma_rel is None) == (self.gamma is None):
            raise ConfigError(
                f"PowerEMA has sigma_rel={self.sigma_rel!r} and gamma={self.gamma!r}; "
                "expected exactly one of them. Pass one."
            )
        if self.sigma_rel is not None and not 0 < self.sigma_rel < _WIDEST:
            raise ConfigError(
                f"sigma_rel is {self.sigma_rel!r}; expected 0 < sigma_rel < {_WIDEST:.4f} "
                "(that of a uniform average)."
            )
        if self.gamma is not None and not 0 < self.gamma < inf:
            raise ConfigError(f"gamma is {self.gamma!r}; expected > 0, and finite.")

    @property
    def exponent(self) -> float:
        """γ, whichever of the two parameters was given."""
        if self.gamma is not None:
            return self.gamma
        assert self.sigma_rel is not None
        return _gamma_of(self.sigma_rel)

    @property
    def label(self) -> str:
        """The name in the bank."""
        width = self.sigma_rel if self.sigma_rel is not None else _sigma_of(self.exponent)
        return self.name or f"power_{width:.3g}"

    def at_period(self, every: int) -> "PowerEMA":
        """Itself: Δ in the formula already accounts for the period."""
        return self

    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight w = 1 − (1 − Δ/t)^(γ+1), in [0, 1]. `folded` is not used."""
        kept: float = (1.0 - update.since / update.step) ** (self.exponent + 1.0)
        return 1.0 - kept


@dataclass(frozen=True)
class Uniform:
    """The plain mean of the weights at all updates after step `start` (SWA, tail averages).

        m = (1/n)·Σ x_i   over the n updates with step > start

    Initial weights never count; before the first such update the average holds them.

    Args:
        start: Optimizer steps that are left out, ≥ 0.
        name: `uniform`, or `uniform_from_<start>`, if None.

    Source:
        Polyak & Juditsky 1992; Izmailov et al. 2018.

    Example:
        >>> [Uniform().weight(Update(n, n + 1, 1), folded=n) for n in range(3)]
        [1.0, 0.5, 0.3333333333333333]
    """

    start: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.start, int) or self.start < 0:
            raise ConfigError(
                f"start is {self.start!r}; expected a whole number >= 0 of optimizer steps."
            )

    @property
    def label(self) -> str:
        """The name in the bank."""
        return self.name or (f"uniform_from_{self.start}" if self.start else "uniform")

    def at_period(self, every: int) -> "Uniform":
        """Itself: a mean has no horizon to convert."""
        return self

    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight 1/n for the n-th weights that count, 0 before `start`."""
        return 1.0 / (folded + 1) if update.step > self.start else 0.0


Average = EMA | PowerEMA | Uniform | Schedule | Window
KINDS: dict[str, type[EMA | PowerEMA | Uniform | Schedule | Window]] = {
    "ema": EMA,
    "power": PowerEMA,
    "uniform": Uniform,
    "schedule": Schedule,
    "window": Window,
}
_WIDEST = 12**-0.5


def as_average(value: "float | Average") -> Average:
    """An average as given, or an EMA of the decay given as a plain number."""
    average = EMA(float(value)) if isinstance(value, Real) else value
    if not isinstance(average, Average):
        raise ConfigError(
            f"an average is {value!r}; "
            "expected a decay or one of EMA, PowerEMA, Uniform, Schedule, Window."
        )
    return average


def to_record(average: Average) -> dict[str, Any]:
    """The average as plain JSON values; of a `Schedule`, the name alone.

    Example:
        >>> to_record(Uniform(start=100))
        {'kind': 'uniform', 'start': 100, 'name': None}
    """
    [kind] = [key for key, cls in KINDS.items() if type(average) is cls]
    settings = {f.name: getattr(average, f.name) for f in fields(average) if f.name != "function"}
    if isinstance(average, EMA):
        settings["warmup"] = warmup_record(average.warmup)
    return {"kind": kind, **settings}


def from_record(record: Mapping[str, Any]) -> Average:
    """The average that `to_record` described.

    Raises:
        ConfigError: for a `Schedule`, whose function no record holds.
    """
    settings = dict(record)
    kind = str(settings.pop("kind", None))
    if kind not in KINDS:
        raise ConfigError(unknown("kind", kind, KINDS))
    if kind == "schedule":
        raise ConfigError(
            f"the record names the schedule {settings.get('name')!r}; expected a kind without a "
            "function of its own. Build Schedule(weight=…, name=…) again."
        )
    if kind == "ema":
        settings["warmup"] = warmup_from_record(settings.get("warmup", "paper"))
    return KINDS[kind](**settings)


def _sigma_of(gamma: float) -> float:
    return float(((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5)


@lru_cache(maxsize=64)
def _gamma_of(sigma_rel: float) -> float:
    """γ with σ_rel(γ) = sigma_rel, by bisection: σ_rel falls monotonically in γ ≥ 0."""
    low, high = 0.0, 1.0
    while _sigma_of(high) > sigma_rel:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigma_of(middle) > sigma_rel else (low, middle)
    return (low + high) / 2
