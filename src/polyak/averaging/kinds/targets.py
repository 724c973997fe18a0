"""Averages as teachers and target networks have them: momentum on a cosine, and hard copies."""

from dataclasses import dataclass
from math import cos, pi

from polyak.averaging.kinds.average import Average, Update, refuse_between
from polyak.averaging.kinds.lengths import converted
from polyak.errors import ConfigError
from polyak.numbers import as_plain, is_number, is_whole


@dataclass(frozen=True)
class CosineEMA(Average):
    """An EMA whose decay goes from one value to another on half a cosine, then stays there.

        d = end − (end − start)·(1 + cos(π·k/steps))/2,   k steps before the update, at most `steps`

    Args:
        start: Decay at the first update, in [0, 1].
        end: Decay from step `steps` on, in [0, 1]; at 1 the average no longer moves.
        steps: Optimizer steps that it takes, > 0. k of an update is that of the update before it:
            0, 1, … for updates at every step.
        name: `ema_<start>_to_<end>` if None.

    Raises:
        ConfigError: for a value outside its range.

    Source:
        Grill et al. 2020 (BYOL), section 3.2 and appendix J, from 0.996 to 1 over the whole run;
        Caron et al. 2021 (DINO) likewise.

    Example:
        >>> kind = CosineEMA(0.996, 1.0, steps=100)
        >>> [round(1 - kind.weight(Update(t, t + 1, 1), t), 4) for t in (0, 50, 100)]
        [0.996, 0.998, 1.0]
    """

    start: float
    end: float
    steps: float
    name: str | None = None

    def __post_init__(self) -> None:
        for setting in ("start", "end", "steps"):
            object.__setattr__(self, setting, as_plain(getattr(self, setting)))
        faults = [
            f"{what} is {value!r}; expected 0 <= {what} <= 1"
            for what, value in (("start", self.start), ("end", self.end))
            if not is_number(value) or not 0.0 <= value <= 1.0
        ]
        if not is_number(self.steps) or not 0 < self.steps < float("inf"):
            faults.append(f"steps is {self.steps!r}; expected > 0, and finite")
        if faults:
            raise ConfigError.of("EMA.cosine", faults)

    @property
    def label(self) -> str:
        """The name in the bank."""
        return self.name or f"ema_{self.start:.12g}_to_{self.end:.12g}"

    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight w = 1 − d, in [0, 1]. `folded` is not used."""
        k = min(update.step - update.since, self.steps)
        decay: float = self.end - (self.end - self.start) * (cos(pi * k / self.steps) + 1) / 2
        return 1.0 - decay

    def describe(self, every: int) -> str:
        """Both decays and where it ends."""
        return (
            f"decay {self.start:g} to {self.end:g} per update, on a cosine until step "
            f"{self.steps:g}, no warm-up"
        )


def cosine_ema(
    start: float,
    end: float = 1.0,
    steps: float | None = None,
    *,
    epochs: float | None = None,
    samples: float | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    name: str | None = None,
) -> CosineEMA:
    """The momentum schedule of BYOL and DINO: a decay that rises on a cosine, without warm-up.

        d = end − (end − start)·(1 + cos(π·k/steps))/2,   k = 0, 1, … steps before the update

    Args:
        start: Decay at the first update, in [0, 1].
        end: Decay after `steps`, in [0, 1].
        steps: Optimizer steps that it takes, mostly of the whole run; or `epochs` with
            `steps_per_epoch`, or `samples` with `batch_size`.
        name: `ema_<start>_to_<end>` if None.

    Raises:
        ConfigError: for a value outside its range, or not one length.

    Example:
        >>> cosine_ema(0.996, 1.0, epochs=100, steps_per_epoch=390).steps
        39000
    """
    _, _, in_steps = converted(
        "the schedule",
        steps=steps,
        epochs=epochs,
        samples=samples,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
    )
    return CosineEMA(start, end, steps=in_steps, name=name)


@dataclass(frozen=True)
class HardCopy(Average):
    """The weights of the last multiple of so many steps: a target network's hard update.

        m ← x at every update that reaches a multiple of `every` steps

    Args:
        every: Optimizer steps from one copy to the next, a multiple of the bank's period, ≥ 1.
        name: `copy_every_<every>` if None.

    Raises:
        ConfigError: for a value outside its range.

    Source:
        Mnih et al. 2015 (DQN): the target network is a copy of each C-th step.

    Note:
        In a bank of its own `Averager(model, HardCopy(k), every=k)` touches no weight between.

    Example:
        >>> kind = HardCopy(3)
        >>> [kind.weight(Update(t, t + 1, 1), 0) for t in range(6)]
        [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    """

    every: int
    name: str | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.every, least=1):
            raise ConfigError(
                f"every is {self.every!r}; expected optimizer steps, a whole number >= 1."
            )

    @property
    def label(self) -> str:
        """The name in the bank."""
        return self.name or f"copy_every_{self.every}"

    def at_period(self, every: int) -> "HardCopy":
        """Itself, if copies can be taken at updates every so many steps.

        Raises:
            ConfigError: for a spacing that is no multiple of the period.
        """
        refuse_between(self.label, self.every, period=every, what="Copies")
        return self

    def weight(self, update: Update, folded: int) -> float:
        """1 where an update copies, else 0. `folded` is not used."""
        return float(update.reaches(self.every))

    def describe(self, every: int) -> str:
        """How often."""
        return f"the weights of the last multiple of {self.every} steps"
