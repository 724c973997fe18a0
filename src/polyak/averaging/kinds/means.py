"""Plain means: of all weights from a step on, and of the last few snapshots (LAWA)."""

from collections.abc import Hashable
from dataclasses import dataclass, replace

from polyak.averaging.kinds.average import Average, Update, refuse_between
from polyak.averaging.kinds.profiles.long_runs import Sums
from polyak.errors import ConfigError
from polyak.numbers import is_whole


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
        if not is_whole(self.start, least=0):
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

    def sums(self, *, updates: int, every: int) -> Sums:
        """Nothing, half the way back to the first one, and one over their number, if there are."""
        taken = updates - self.start // every
        return Sums(0.0, (taken - 1) / 2, 1 / taken) if taken > 0 else Sums(1.0, updates, 1.0)

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


@dataclass(frozen=True)
class Window(Average):
    """The plain mean of the last few snapshots, the older ones forgotten entirely.

        m = (1/n)·Σ of the last n snapshots,   n = min(last, snapshots so far)

    The snapshots are kept as they are and every mean is computed from them anew, so nothing
    drifts: beside the average lie `last` copies of the weights. Initial weights never count;
    before the first snapshot the average holds them.

    Args:
        last: Snapshots in the mean, ≥ 1.
        every: Optimizer steps from one snapshot to the next, a multiple of the bank's period.
            None takes one at every update.
        name: `window_<last>`, with `_every_<every>` where that is given, if None.

    Raises:
        ConfigError: for a value outside its range.

    Source:
        Kaddour 2022, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with
        Latest Weight Averaging": the last k checkpoints at the ends of epochs.

    Example:
        >>> Window(5).label, Window(5, every=390).label
        ('window_5', 'window_5_every_390')
        >>> [round(Window(2).weight(Update(n, n + 1, 1), folded=n), 2) for n in range(3)]
        [1.0, 0.5, 0.5]
    """

    last: int
    every: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{setting} is {value!r}; expected a whole number >= 1"
            for setting, value in (("last", self.last), ("every", self.every))
            if value is not None or setting == "last"
            if not is_whole(value, least=1)
        ]
        if faults:
            raise ConfigError.of("Window", faults)

    @property
    def label(self) -> str:
        """The name in the bank."""
        spacing = "" if self.every is None else f"_every_{self.every}"
        return self.name or f"window_{self.last}{spacing}"

    def at_period(self, every: int) -> "Window":
        """Itself, if snapshots can be taken at updates every so many steps.

        Raises:
            ConfigError: for a spacing that is no multiple of the period.
        """
        if self.every is not None:
            refuse_between(self.label, self.every, period=every, what="Snapshots")
        return replace(self, name=self.label)

    def due(self, update: Update) -> bool:
        """Whether an update takes a snapshot: the first at or after each multiple of `every`."""
        return self.every is None or update.reaches(self.every)

    def weight(self, update: Update, folded: int) -> float:
        """Share of the current weights in the new mean, 0 where no snapshot is taken."""
        return 1.0 / min(folded + 1, self.last) if self.due(update) else 0.0

    def ages(self, *, updates: int, every: int, begun: int = 0) -> list[int]:
        """One every so many updates."""
        spacing = 1 if self.every is None else max(1, self.every // every)
        newest = updates % spacing
        return list(range(newest, updates - begun, spacing)[: self.last])

    @property
    def snapshots(self) -> int:
        """As many as it was asked for."""
        return self.last

    def regular(self, *, updates: int, folded: int, every: int) -> "Window | None":
        """Itself, if a snapshot is taken at every update."""
        return self if self.every is None else None

    def likeness(self, *, steps: int, updates: int) -> tuple[str, Hashable]:
        """Windows of one spacing are equal until one of them drops a snapshot."""
        taken = updates if self.every is None else steps // self.every
        if taken <= self.last:
            return "no window has dropped a snapshot", self.every
        return super().likeness(steps=steps, updates=updates)

    def describe(self, every: int) -> str:
        """Length and spacing."""
        return (
            f"plain mean of the last {self.last} snapshots, one every {self.every or every} steps"
        )
