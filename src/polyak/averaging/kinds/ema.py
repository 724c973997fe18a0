"""The exponential moving average: its decay, in the units that people think in, and its warm-up."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, log
from numbers import Real
from typing import Any, Literal

from polyak.averaging.kinds.average import Average, Update
from polyak.averaging.kinds.lengths import converted
from polyak.averaging.kinds.profiles.long_runs import Sums, after_steady, steadily, sums
from polyak.averaging.kinds.targets import cosine_ema
from polyak.averaging.kinds.warmups import (
    WARMUPS,
    Warmup,
    WarmupName,
    canonical,
    warmup_from_record,
    warmup_record,
)
from polyak.errors import ConfigError
from polyak.numbers import is_number, is_whole

Counter = Literal["updates", "steps"]


@dataclass(frozen=True)
class EMA(Average):
    """Exponential moving average: the weight of an old iterate shrinks by `decay` per update.

        m_t = d_t·m_{t−1} + (1 − d_t)·x_t,   d_t = min(decay, (t + 1)/(t + 10)),   t = 0, 1, …

    Args:
        decay: Weight d of the old average at an update, in [0, 1). Per update, not per step.
        warmup: How d_t rises. "paper" is the form above; "torch_ema", "diffusers",
            "inverse_gamma" (timm, ema-pytorch), "edm2" and "yolo" are those of other tools; a
            `Ratio`, `InverseGamma`, `HalfLifeRamp` or `Exponential` has settings of its own. None
            keeps `decay` from the first update.
        warmup_counts: What t counts. "updates" is what the authors' code does. With a period T,
            "steps" ends the warm-up T times sooner.
        name: How the average is called; `ema_<decay>` if None.
        per: Whether `decay` is meant per "update" or per optimizer "step"; a bank turns the
            latter into decay^every.
        start: Optimizer steps before it begins, ≥ 0. The first update at or after step `start`
            and all before it copy the weights, as in torch's `AveragedModel`; from there on it is
            the EMA that begins with these: t counts updates since, or steps since `start`. 0
            begins with the initial weights.

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
    start: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if not is_number(self.decay):
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
        else:
            faults += [] if self.ramp is None else self.ramp.faults(self.decay)
        if self.warmup_counts not in ("updates", "steps"):
            faults.append(f"warmup_counts is {self.warmup_counts!r}; expected 'updates' or 'steps'")
        if self.per not in ("update", "step"):
            faults.append(f"per is {self.per!r}; expected 'update' or 'step'")
        if not is_whole(self.start, least=0):
            faults.append(f"start is {self.start!r}; expected optimizer steps, a whole number >= 0")
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
        start: int = 0,
    ) -> "EMA":
        """An EMA whose decay is meant per optimizer step, whatever the bank's period is.

        A bank with period T uses decay^T at each update, so that a change of T leaves the
        horizon where it was.

        Example:
            >>> round(EMA.per_step(0.999875).at_period(16).decay, 6)
            0.998002
        """
        return cls(decay, warmup, warmup_counts, name, per="step", start=start)

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
        start: int = 0,
    ) -> "EMA":
        """An EMA in which the weight of an old iterate halves every so many steps.

            decay per step = 2^(−1/h),  h = steps = epochs · steps_per_epoch = samples / batch_size

        Raises:
            ConfigError: unless exactly one length > 0 is given, with the size that converts it.

        Example:
            >>> EMA.halflife(epochs=2, steps_per_epoch=50).label
            'ema_halflife_2_epochs'
        """
        unit, length, in_steps = converted(
            "the half-life",
            steps=steps,
            epochs=epochs,
            samples=samples,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
        )
        decay = 2.0 ** (-1.0 / in_steps)
        name = name or f"ema_halflife_{length:g}_{unit}{_from(start)}"
        return cls.per_step(
            decay, warmup=warmup, warmup_counts=warmup_counts, name=name, start=start
        )

    @classmethod
    def tau(cls, tau: float, *, name: str | None = None) -> "EMA":
        """The soft update of a target network, m ← m + τ·(x − m), without a warm-up.

        Args:
            tau: τ, in (0, 1].
            name: `tau_<tau>` if None.

        Source:
            Lillicrap et al. 2016 (DDPG), τ 0.001; 0.005 in TD3 and SAC.

        Example:
            >>> EMA.tau(0.005).label, EMA.tau(0.005).decay
            ('tau_0.005', 0.995)
        """
        if not isinstance(tau, Real) or not 0.0 < tau <= 1.0:
            raise ConfigError(f"tau is {tau!r}; expected 0 < tau <= 1.")
        return cls(1.0 - float(tau), None, name=name or f"tau_{tau:.12g}")

    cosine = staticmethod(cosine_ema)

    def scaled_batch(self, kappa: float, *, name: str | None = None) -> "EMA":
        """The average for a batch `kappa` times as large: decay^κ, the same horizon in samples.

        Goes with the learning rate's own scaling rule. The warm-up stays as it is: where it is
        a share of the run, as "paper" and "edm2" are, it needs no scaling. `start` is scaled to
        the same samples.

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
        start = max(1, round(self.start / kappa)) if self.start else 0
        return replace(self, decay=self.decay**kappa, name=name, start=start)

    @property
    def label(self) -> str:
        """The name in the bank."""
        unit = "_per_step" if self.per == "step" else ""
        return self.name or f"ema_{self.decay:.12g}{unit}{_from(self.start)}"

    def at_period(self, every: int) -> "EMA":
        """The same average with its decay per update of a bank that updates every so many steps."""
        if self.per == "update":
            return self
        return replace(self, decay=self.decay**every, per="update", name=self.label)

    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight w = 1 − d_t of the current weights, in (0, 1]: 1 until it has begun.

        `folded` matters with a start alone.
        """
        if self.start and self._copies(update):
            return 1.0
        ramp = self.ramp
        if ramp is None:
            return 1.0 - self.decay
        if self.warmup_counts == "updates":
            return 1.0 - ramp.decay_at(self.decay, folded - 1 if self.start else update.index)
        return 1.0 - ramp.decay_at(self.decay, update.step - 1 - self.start, update.since)

    def folded_after(self, update: Update, folded: int, w: float) -> int:
        """One for the weights that it begins with, and one for each update since."""
        return 1 if self.start and self._copies(update) else folded + (w > 0)

    def _copies(self, update: Update) -> bool:
        """Whether there was no update yet at or after `start`."""
        return update.step - update.since < self.start

    @property
    def depends_on_steps(self) -> bool:
        """Only through its start, and a warm-up that counts steps."""
        return self.start > 0 or self._warmup_depends_on_steps

    @property
    def _warmup_depends_on_steps(self) -> bool:
        return self.warmup is not None and self.warmup_counts == "steps"

    def regular(self, *, updates: int, folded: int, every: int) -> "EMA | None":
        """With a start at which as many updates follow, unless its warm-up counts steps."""
        if self._warmup_depends_on_steps:
            return None
        if not self.start:
            return self
        return replace(self, start=(updates - folded + 1) * every, name=self.label)

    def steady(self, every: int) -> tuple[int, float] | None:
        """The end of the warm-up, if d_t is the decay there to the bit."""
        end = self.governed_updates(every)
        if end is None:
            return None
        # Some warm-ups count as over before they are; they only come nearer from there on.
        while self._weight_at(end, every) != 1.0 - self.decay:
            end = 2 * end + 1
            if end > _BEYOND:
                return None
        return end, self.decay

    def _weight_at(self, index: int, every: int) -> float:
        """Lerp weight of an update of a regular run."""
        update = Update(index, (index + 1) * every, every)
        return self.weight(update, index - self._copied_updates(every) + 1)

    def sums(self, *, updates: int, every: int) -> Sums | None:
        """Of copies nothing is left; then warm-up, in blocks where it is long; then the decay."""
        copied = min(self._copied_updates(every), updates)
        found = Sums(0.0 if copied else 1.0, 0.0, 1.0)
        steady_from, d = self.steady(every) or (updates, 0.0)
        settled = max(copied, min(steady_from, updates))
        if steadily(d, updates - settled)[0] * settled > _NOTHING:
            found = sums(
                lambda index: self._weight_at(index, every),
                begin=copied,
                end=settled,
                before=found,
            )
        return after_steady(found, d, updates - settled)

    def warmup_steps(self, every: int) -> int | None:
        """The end of copying and of the warm-up in steps, whatever it counts."""
        end, copied = self.warmup_end(every), self._copied_updates(every)
        if end is None or self.warmup_counts == "updates":
            return None if end is None else (copied + end) * every
        return max(copied * every, self.start + end)

    def _copied_updates(self, every: int) -> int:
        """How many updates of a bank that updates every so many steps copy the weights."""
        return -(-self.start // every)

    def likeness(self, *, steps: int, updates: int) -> tuple[str, Hashable]:
        """EMAs are equal before they begin, and while one warm-up alone has set their decays."""
        # Counts tell the period of regular updates. Of others nothing is claimed too long: none
        # can be as many after `start` as with period 1.
        every = steps // updates if updates and steps % updates == 0 else 1
        begun = self._copied_updates(every) * every
        if self.start and steps <= begun:
            return "all copies of the weights", None
        # t of the last update that took place. Ramps rise in t and fall in the span of an
        # update, so a ramp that governs here with span 1 has governed every update before.
        t = steps - 1 - self.start
        if self.warmup_counts == "updates":
            t = (steps - begun) // every - 1 if self.start else updates - 1
        if self.warms_up_at(t):
            return "all inside warm-up", (self.warmup, self.warmup_counts, self.start)
        return super().likeness(steps=steps, updates=updates)

    def describe(self, every: int) -> str:
        """Decay, half-life, and where the warm-up ends."""
        if self.decay == 0.0:
            return "the weights of the last update"
        half = log(0.5) / log(self.decay)
        words = f"decay {self.decay:g} per update, half-life {half:.1f} updates"
        return f"{words} ({half * every:.0f} steps), {self._describe_warmup(every)}"

    def _describe_warmup(self, every: int) -> str:
        if not self.start:
            return "no warm-up" if self.ramp is None else f"warm-up {self._describe_end(every)}"
        copied = self._copied_updates(every)
        words = f"warm-up copies the weights until update {copied} (step {copied * every})"
        return words if self.ramp is None else f"{words}, then {self._describe_end(every)}"

    def _describe_end(self, every: int) -> str:
        ramp, end, governed = self.ramp, self.warmup_end(every), self.governed_updates(every)
        if ramp is None or end is None or governed is None:
            return "never ends"
        if end == 0:
            return "never governs"
        when = f"update {governed} (step {governed * every})"
        if self.warmup_counts == "steps":
            when = f"step {self.start + end} (update {governed})"
        settled = f" (within {ramp.tolerance:.0%})" if ramp.tolerance else ""
        return f"governs until {when}{settled}"

    def settings(self) -> dict[str, Any]:
        """The fields, but no start of 0; a warm-up by its name, or its kind with its settings."""
        fields = {**super().settings(), "warmup": warmup_record(self.warmup)}
        # So that what was recorded before there were starts still compares equal.
        return fields if self.start else {k: x for k, x in fields.items() if k != "start"}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "EMA":
        """The EMA of a record; one without a warm-up has the paper's."""
        warmup = warmup_from_record(settings.get("warmup", "paper"))
        return cls(**{**settings, "warmup": warmup})

    def warms_up_at(self, t: int, span: int = 1) -> bool:
        """Whether the warm-up alone, not `decay`, sets d_t; `span` counts are this update's."""
        return self.ramp is not None and self.ramp.governs(self.decay, t, span)

    def warmup_end(self, every: int = 1) -> int | None:
        """The value of t from which d_t is `decay`, in a bank that updates every so many steps.

        t counts from `start`.

        None if no run is long enough.
        """
        span = every if self.warmup_counts == "steps" else 1
        return 0 if self.ramp is None else self.ramp.end(self.decay, span)

    def governed_updates(self, every: int = 1) -> int | None:
        """How many updates of such a bank take place before d_t is `decay`; None if all do."""
        end, copied = self.warmup_end(every), self._copied_updates(every)
        if end is None or self.warmup_counts == "updates":
            return None if end is None else copied + end
        return max(copied, (self.start + end) // every)

    @property
    def warmup_updates(self) -> int | None:
        """`warmup_end` at period 1; for "paper" the smallest t with (t+1)/(t+10) ≥ decay."""
        return self.warmup_end()

    @property
    def ramp(self) -> Warmup | None:
        """The warm-up itself, named or not."""
        return WARMUPS[self.warmup] if isinstance(self.warmup, str) else self.warmup


_BEYOND = 2**50
"""Updates that no run reaches."""

_NOTHING = 1e-30
"""Below this what an average held before no longer counts."""


def _from(start: int) -> str:
    """What a start adds to a name."""
    return f"_from_{start}" if start else ""
