"""What an average is: a schedule of lerp weights.

Update number t of every kind is  m ← m + w·(x − m),  w = 1 − d,  where x are the model's
weights and m the average's. The kinds differ only in w, so they live side by side in one bank.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from typing import Any, Literal

from polyak.errors import ConfigError, unknown

Warmup = Literal["paper"] | None
Counter = Literal["updates", "steps"]


@dataclass(frozen=True, slots=True)
class Update:
    """The moment at which an average takes the current weights in."""

    index: int
    """Updates before this one; the first update has 0."""

    step: int
    """Optimizer steps taken so far, at least 1."""

    since: int
    """Optimizer steps since the update before this one, or since the start."""


@dataclass(frozen=True)
class EMA:
    """Exponential moving average: the weight of an old iterate shrinks by `decay` per update.

        m_t = d_t·m_{t−1} + (1 − d_t)·x_t,   d_t = min(decay, (t + 1)/(t + 10)),   t = 0, 1, …

    Args:
        decay: Weight d of the old average at an update, in [0, 1). Per update, not per step.
        warmup: "paper" is the rising d_t above; None keeps `decay` from the first update.
        warmup_counts: What t counts. "updates" is what the authors' code does.
        name: How the average is called; `ema_<decay>` if None.
        per: Whether `decay` is meant per "update" or per optimizer "step"; a bank turns the
            latter into decay^every.

    Raises:
        ConfigError: for a value outside its range.

    Source:
        "Exponential Moving Average of Weights in Deep Learning", equation 1 and section 4.1;
        the constants 1 and 10 are TensorFlow's.

    Note:
        Peers start the ramp elsewhere: torch-ema's first d is 2/11, diffusers' is 0, ours 1/10.

    Example:
        >>> [round(1 - EMA(0.9).weight(Update(t, t + 1, 1), t), 2) for t in (0, 1, 1000)]
        [0.1, 0.18, 0.9]
    """

    decay: float
    warmup: Warmup = "paper"
    warmup_counts: Counter = "updates"
    name: str | None = None
    per: Literal["update", "step"] = "update"

    def __post_init__(self) -> None:
        faults = []
        if not 0.0 <= self.decay < 1.0:
            faults.append(f"decay is {self.decay!r}; expected 0 <= decay < 1")
        if self.warmup not in ("paper", None):
            faults.append(f"warmup is {self.warmup!r}; expected 'paper' or None")
        if self.warmup_counts not in ("updates", "steps"):
            faults.append(f"warmup_counts is {self.warmup_counts!r}; expected 'updates' or 'steps'")
        if faults:
            raise ConfigError.of("EMA", faults)

    @classmethod
    def per_step(cls, decay: float, *, warmup: Warmup = "paper", name: str | None = None) -> "EMA":
        """An EMA whose decay is meant per optimizer step, whatever the bank's period is.

        A bank with period T uses decay^T at each update, so that a change of T leaves the
        horizon where it was.
        """
        return cls(decay, warmup=warmup, name=name or f"ema_{decay:.12g}_per_step", per="step")

    @classmethod
    def halflife(
        cls,
        *,
        steps: float | None = None,
        epochs: float | None = None,
        samples: float | None = None,
        steps_per_epoch: int | None = None,
        batch_size: int | None = None,
        warmup: Warmup = "paper",
        name: str | None = None,
    ) -> "EMA":
        """An EMA in which the weight of an old iterate halves every so many steps.

            decay per step = 2^(−1/h),  h = steps = epochs · steps_per_epoch = samples / batch_size

        Raises:
            ConfigError: unless exactly one length > 0 is given, with the size that converts it.
        """
        given = {"steps": steps, "epochs": epochs, "samples": samples}
        lengths = {unit: value for unit, value in given.items() if value is not None}
        if len(lengths) != 1:
            raise ConfigError(
                f"the half-life is given in {sorted(lengths)!r}; "
                "expected one of steps, epochs, samples. Pass exactly one."
            )
        [(unit, length)] = lengths.items()
        size: float | None = 1.0
        if unit == "epochs":
            size = steps_per_epoch
        elif unit == "samples":
            size = None if batch_size is None else 1.0 / batch_size
        if size is None or not length * size > 0 or not isfinite(length * size):
            need = {"epochs": " with steps_per_epoch", "samples": " with batch_size"}.get(unit, "")
            raise ConfigError(f"half-life {unit} is {length!r}; expected > 0{need}.")
        decay = 2.0 ** (-1.0 / (length * size))
        return cls.per_step(decay, warmup=warmup, name=name or f"ema_halflife_{length:g}_{unit}")

    @property
    def label(self) -> str:
        """The name in the bank."""
        return self.name or f"ema_{self.decay:.12g}"

    def at_period(self, every: int) -> "EMA":
        """The same average with its decay per update of a bank that updates every so many steps."""
        if self.per == "update":
            return self
        return replace(self, decay=self.decay**every, per="update", name=self.label)

    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight w = 1 − d_t of the current weights, in (0, 1]. `folded` is not used."""
        if self.warmup is None:
            return 1.0 - self.decay
        t = update.index if self.warmup_counts == "updates" else update.step - 1
        return 1.0 - min(self.decay, _ramp(t))

    def warms_up_at(self, t: int) -> bool:
        """Whether the ramp, not `decay`, sets d_t."""
        return self.warmup is not None and _ramp(t) <= self.decay

    @property
    def warmup_updates(self) -> int:
        """The value of t from which d_t is `decay`: the smallest t with (t+1)/(t+10) ≥ decay."""
        if self.warmup is None:
            return 0
        t = max(0, int((10 * self.decay - 1) / (1 - self.decay)) - 1)
        while _ramp(t) < self.decay:
            t += 1
        return t


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


Average = EMA | PowerEMA | Uniform
KINDS: dict[str, type[EMA] | type[PowerEMA] | type[Uniform]] = {
    "ema": EMA,
    "power": PowerEMA,
    "uniform": Uniform,
}
_WIDEST = 12**-0.5


def as_average(value: "float | Average") -> Average:
    """An average as given, or an EMA of the decay given as a plain number."""
    average = EMA(float(value)) if isinstance(value, int | float) else value
    if not isinstance(average, Average):
        raise ConfigError(
            f"an average is {value!r}; expected a decay or one of EMA, PowerEMA, Uniform."
        )
    return average


def to_record(average: Average) -> dict[str, Any]:
    """The average as plain JSON values."""
    [kind] = [key for key, cls in KINDS.items() if type(average) is cls]
    return {"kind": kind, **asdict(average)}


def from_record(record: Mapping[str, Any]) -> Average:
    """The average that `to_record` described."""
    fields = dict(record)
    kind = str(fields.pop("kind", None))
    if kind not in KINDS:
        raise ConfigError(unknown("kind", kind, KINDS))
    return KINDS[kind](**fields)


def _ramp(t: int) -> float:
    return (t + 1) / (t + 10)


def _sigma_of(gamma: float) -> float:
    return float(((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5)


def _gamma_of(sigma_rel: float) -> float:
    """γ with σ_rel(γ) = sigma_rel, by bisection: σ_rel falls monotonically in γ ≥ 0."""
    low, high = 0.0, 1.0
    while _sigma_of(high) > sigma_rel:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigma_of(middle) > sigma_rel else (low, middle)
    return (low + high) / 2
