"""The plain mean of all weights from a step on."""

from collections.abc import Hashable
from dataclasses import dataclass

from polyak.averaging.kinds.average import Average, Update
from polyak.errors import ConfigError


@dataclass(frozen=True)
class Uniform(Average):
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

    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight 1/n for the n-th weights that count, 0 before `start`."""
        return 1.0 / (folded + 1) if update.step > self.start else 0.0

    def share_and_age(self, *, updates: int, every: int) -> tuple[float, float]:
        """Nothing, and half the way back to the first one, once there is one."""
        taken = updates - self.start // every
        return (0.0, (taken - 1) / 2) if taken > 0 else (1.0, float(updates))

    def regular(self, *, updates: int, folded: int, every: int) -> "Uniform":
        """The mean of the last `folded` updates, whenever they took place."""
        return Uniform(start=(updates - folded) * every, name=self.label)

    def likeness(self, *, steps: int, updates: int) -> tuple[str, Hashable]:
        """All means that have not begun hold the initial weights."""
        if steps <= self.start:
            return "none has begun", None
        return super().likeness(steps=steps, updates=updates)

    def describe(self, every: int) -> str:
        """What it is the mean of."""
        return f"plain mean of all updates after step {self.start}"
