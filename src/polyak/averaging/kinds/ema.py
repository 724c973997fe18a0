"""The exponential moving average: its decay, in the units that people think in, and its warm-up."""

from dataclasses import dataclass, replace
from math import isfinite
from numbers import Real
from typing import Literal

from polyak.averaging.kinds.warmups import (
    WARMUPS,
    InverseGamma,
    Warmup,
    WarmupName,
    canonical,
    decay_at,
    governs,
    warmup_end,
)
from polyak.errors import ConfigError

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
        warmup: How d_t rises. "paper" is the form above; "torch_ema", "diffusers",
            "inverse_gamma" (timm, ema-pytorch), "edm2" and "yolo" are those of other tools; an
            object of `polyak.averaging.kinds.warmups` has settings of its own. None keeps `decay`
            from the first update.
        warmup_counts: What t counts. "updates" is what the authors' code does. With a period T,
            "steps" ends the warm-up T times sooner.
        name: How the average is called; `ema_<decay>` if None.
        per: Whether `decay` is meant per "update" or per optimizer "step"; a bank turns the
            latter into decay^every.

    Raises:
        ConfigError: for a value outside its range.

    Source:
        "Exponential Moving Average of Weights in Deep Learning", equation 1 and section 4.1;
        the constants 1 and 10 are TensorFlow's.

    Example:
        >>> [round(1 - EMA(0.9).weight(Update(t, t + 1, 1), t), 2) for t in (0, 1, 1000)]
        [0.1, 0.18, 0.9]
        >>> EMA(0.998).warmup_updates
        4490
    """

    decay: float
    warmup: WarmupName | Warmup | None = "paper"
    warmup_counts: Counter = "updates"
    name: str | None = None
    per: Literal["update", "step"] = "update"

    def __post_init__(self) -> None:
        if not isinstance(self.decay, Real):
            raise ConfigError(f"decay is {self.decay!r}; expected a number, 0 <= decay < 1.")
        # numpy's numbers are numbers, too, but no record can hold them.
        object.__setattr__(self, "decay", float(self.decay))
        faults = []
        if not 0.0 <= self.decay < 1.0:
            faults.append(f"decay is {self.decay!r}; expected 0 <= decay < 1")
        try:
            object.__setattr__(self, "warmup", canonical(self.warmup))
        except ConfigError as error:
            faults.append(str(error))
        if isinstance(self.warmup, InverseGamma) and self.warmup.min_decay > self.decay:
            faults.append(
                f"min_decay of the warm-up is {self.warmup.min_decay!r}; "
                f"expected <= decay per update ({self.decay!r})"
            )
        if self.warmup_counts not in ("updates", "steps"):
            faults.append(f"warmup_counts is {self.warmup_counts!r}; expected 'updates' or 'steps'")
        if self.per not in ("update", "step"):
            faults.append(f"per is {self.per!r}; expected 'update' or 'step'")
        if faults:
            raise ConfigError.of("EMA", faults)

    @classmethod
    def per_step(
        cls,
        decay: float,
        *,
        warmup: WarmupName | Warmup | None = "paper",
        warmup_counts: Counter = "updates",
        name: str | None = None,
    ) -> "EMA":
        """An EMA whose decay is meant per optimizer step, whatever the bank's period is.

        A bank with period T uses decay^T at each update, so that a change of T leaves the
        horizon where it was.

        Example:
            >>> round(EMA.per_step(0.999875).at_period(16).decay, 6)
            0.998002
        """
        return cls(decay, warmup, warmup_counts, name, per="step")

    @classmethod
    def halflife(
        cls,
        *,
        steps: float | None = None,
        epochs: float | None = None,
        samples: float | None = None,
        steps_per_epoch: int | None = None,
        batch_size: int | None = None,
        warmup: WarmupName | Warmup | None = "paper",
        warmup_counts: Counter = "updates",
        name: str | None = None,
    ) -> "EMA":
        """An EMA in which the weight of an old iterate halves every so many steps.

            decay per step = 2^(−1/h),  h = steps = epochs · steps_per_epoch = samples / batch_size

        Raises:
            ConfigError: unless exactly one length > 0 is given, with the size that converts it.

        Example:
            >>> EMA.halflife(epochs=2, steps_per_epoch=50).label
            'ema_halflife_2_epochs'
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
            size = 1.0 / batch_size if batch_size else None
        if size is None or not length > 0 or not length * size > 0 or not isfinite(length * size):
            need = {"epochs": " with steps_per_epoch", "samples": " with batch_size"}.get(unit, "")
            raise ConfigError(f"half-life {unit} is {length!r}; expected > 0{need}.")
        decay = 2.0 ** (-1.0 / (length * size))
        name = name or f"ema_halflife_{length:g}_{unit}"
        return cls.per_step(decay, warmup=warmup, warmup_counts=warmup_counts, name=name)

    def scaled_batch(self, kappa: float, *, name: str | None = None) -> "EMA":
        """The average for a batch `kappa` times as large: decay^κ, the same horizon in samples.

        Goes with the learning rate's own scaling rule. The warm-up stays as it is: where it is
        a share of the run, as "paper" and "edm2" are, it needs no scaling.

        Args:
            kappa: New batch size over the old one, > 0.
            name: Of the new average; a given one is kept with `_batch_x<kappa>` after it.

        Source:
            Busbridge et al. 2023, "How to Scale Your EMA", definition 1.2.

        Example:
            >>> EMA(0.9999).scaled_batch(8).label
            'ema_0.999200279944'
        """
        if not kappa > 0 or not isfinite(kappa):
            raise ConfigError(f"kappa is {kappa!r}; expected > 0, and finite.")
        if name is None and self.name is not None:
            name = f"{self.name}_batch_x{kappa:g}"
        return replace(self, decay=self.decay**kappa, name=name)

    @property
    def label(self) -> str:
        """The name in the bank."""
        return self.name or f"ema_{self.decay:.12g}" + ("_per_step" if self.per == "step" else "")

    def at_period(self, every: int) -> "EMA":
        """The same average with its decay per update of a bank that updates every so many steps."""
        if self.per == "update":
            return self
        return replace(self, decay=self.decay**every, per="update", name=self.label)

    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight w = 1 − d_t of the current weights, in (0, 1]. `folded` is not used."""
        ramp = self.ramp
        if ramp is None:
            return 1.0 - self.decay
        if self.warmup_counts == "updates":
            return 1.0 - decay_at(ramp, self.decay, update.index)
        return 1.0 - decay_at(ramp, self.decay, update.step - 1, update.since)

    def warms_up_at(self, t: int, span: int = 1) -> bool:
        """Whether the warm-up alone, not `decay`, sets d_t; `span` counts are this update's."""
        return self.ramp is not None and governs(self.ramp, self.decay, t, span)

    def warmup_end(self, every: int = 1) -> int:
        """The value of t from which d_t is `decay`, in a bank that updates every so many steps."""
        span = every if self.warmup_counts == "steps" else 1
        return 0 if self.ramp is None else warmup_end(self.ramp, self.decay, span)

    def governed_updates(self, every: int = 1) -> int:
        """How many updates of such a bank take place before d_t is `decay`."""
        end = self.warmup_end(every)
        return end if self.warmup_counts == "updates" else end // every

    @property
    def warmup_updates(self) -> int:
        """`warmup_end` at period 1; for "paper" the smallest t with (t+1)/(t+10) ≥ decay."""
        return self.warmup_end()

    @property
    def ramp(self) -> Warmup | None:
        """The warm-up itself, named or not."""
        return WARMUPS[self.warmup] if isinstance(self.warmup, str) else self.warmup
