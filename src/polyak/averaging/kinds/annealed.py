"""The average that stands for a decay of the learning rate."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import cos, pi, sqrt
from typing import Literal

from polyak.averaging.kinds.average import Average, Update, refuse_between
from polyak.averaging.kinds.profiles.long_runs import Sums
from polyak.errors import ConfigError
from polyak.numbers import is_whole

Shape = Literal["linear", "1-sqrt", "cosine"]

RATES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1.0 - x,
    "1-sqrt": lambda x: 1.0 - sqrt(x),
    "cosine": lambda x: (1.0 + cos(pi * x)) / 2.0,
}
"""w of each shape: the learning rate over the constant one, of the share x of the decay that is
over; w(0) = 1, w(1) = 0."""

TRUSTED = 0.2
"""Longest decay that an average stands for, as a share of the steps up to its end. Of 216 real
cooldowns (docs/results/2026-11-30-annealed) the average was worse than the decay in 12 of 120 up to
here, by 0.010 nats at most, and in 51 of 96 beyond, by up to 0.027. It was read off one seed of
two; the other, held back, keeps to it."""

MOST_SNAPSHOTS = 100
"""Copies of the weights that an average may keep beside itself."""


@dataclass(frozen=True)
class Annealed(Average):
    """The average of weights at a constant learning rate that stands for a decay of that rate.

        m = Σ_k c_k·x_k,   c_k = w(k − 1) − w(k),   w(0) = 1,   w(D) = 0,   k = 1 … D

    Had step k of the last D run at w(k − 1) of the rate, with the gradients that it had, the
    weights would be m. They would have had others, so m stands for the decay only while D is short
    beside the steps before it (`doubt`).

    With `end` it is kept at the cost of one average: it holds the initial weights until the step
    `end − over`, the average of the decay that is still under way until `end`, and stays. Without,
    it is the average of the last D steps at any time, from copies of the weights, one every
    `every` steps, as of a `Window`; after the run `polyak.synthesize` makes it of other averages
    or of checkpoints, without any of this.

    Args:
        shape: Of the decay: "linear" is the plain mean, "1-sqrt" or "cosine".
        over: D, optimizer steps, ≥ 1.
        end: The step at which it is over, ≥ `over`; None for the last D steps at any time.
        every: Steps from one copy of the weights to the next, without `end`; None takes one at
            every update, if that makes 100 at most.
        name: `annealed_<shape>_<over>`, with `_at_<end>` where that is given, if None.

    Raises:
        ConfigError: for a value outside its range.

    Source:
        Tian et al. 2025 (WSM), theorem 1: decay shapes as merges of checkpoints.

    Example:
        >>> from polyak import profile
        >>> [round(c, 3) for c in profile(Annealed("1-sqrt", over=4), updates=6)]
        [0.0, 0.0, 0.0, 0.5, 0.207, 0.159, 0.134]
    """

    shape: Shape
    over: int
    end: int | None = field(default=None, kw_only=True)
    every: int | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        faults = []
        if self.shape not in RATES:
            faults.append(f"shape is {self.shape!r}; expected one of {', '.join(RATES)}")
        for what, value in (("over", self.over), ("end", self.end), ("every", self.every)):
            none = value is None and what != "over"
            if not none and not is_whole(value, least=1):
                faults.append(f"{what} is {value!r}; expected optimizer steps, a whole number >= 1")
        if not faults and self.end is not None and self.end < self.over:
            faults.append(f"end is {self.end}; expected a step >= over ({self.over})")
        if not faults and self.end is not None and self.every is not None:
            faults.append(f"every is {self.every}; expected None, since end ({self.end}) is given")
        if faults:
            raise ConfigError.of("Annealed", faults)

    @property
    def label(self) -> str:
        """The name in the bank."""
        at = "" if self.end is None else f"_at_{self.end}"
        return self.name or f"annealed_{self.shape}_{self.over}{at}"

    def left(self, k: float, over: float) -> float:
        """w(k), the share of the rate after k of `over` steps, from 1 before them to 0 after."""
        return float(RATES[self.shape](min(max(k / over, 0.0), 1.0)))

    def at_period(self, every: int) -> "Annealed":
        """Itself, with the spacing of its copies.

        Raises:
            ConfigError: for a spacing that is no multiple of the period.
        """
        if self.every is not None:
            refuse_between(self.label, self.every, period=every, what="Copies")
        spacing = self.every if self.end is not None else self.every or every
        return replace(self, every=spacing, name=self.label)

    def fault_if_kept(self, every: int) -> str | None:
        """That there are too many copies."""
        copies = self.at_period(every).snapshots or 0
        if copies <= MOST_SNAPSHOTS:
            return None
        return (
            f"{self.label!r} would keep {copies} copies of the weights; expected at most "
            f"{MOST_SNAPSHOTS}. Pass end= for one average that costs none, every= for fewer, or "
            "make it after the run with polyak.synthesize"
        )

    def doubt(self, steps: int) -> str | None:
        """That the decay is long beside the steps up to its end."""
        last = self.end if self.end is not None else steps
        if self.over <= TRUSTED * last:
            return None
        return (
            f"{self.label!r} stands for a decay over {self.over} of {last} steps; expected at most "
            f"{TRUSTED:.0%} of them. In longer ones the gradients would have been others: in about "
            "half of those measured the real decay was better, by up to 0.027 nats. Take a shorter "
            "one"
        )

    @property
    def snapshots(self) -> int | None:
        """How many cover the last D steps; none with an end."""
        return None if self.end is not None else -(-self.over // (self.every or 1))

    def snapshot_shares(self, count: int) -> Sequence[float]:
        """c of so many copies, the oldest first; each stands for the steps since the one before."""
        spacing = self.every or 1
        over = min(self.over, count * spacing)
        edges = [over - age * spacing for age in range(count, -1, -1)]
        rates = [self.left(edge, over) for edge in edges]
        return [a - b for a, b in pairwise(rates)]

    def weight(self, update: Update, folded: int) -> float:
        """c of the weights now over the sum so far; 0 outside the decay, and between copies."""
        if self.end is None:
            if self.every is not None and not update.reaches(self.every):
                return 0.0
            over = min(self.over, (folded + 1) * (self.every or 1))
            return self.left(over - (self.every or 1), over)
        begin = self.end - self.over
        before = self.left(update.step - update.since - begin, self.over)
        now = self.left(update.step - begin, self.over)
        return (before - now) / (1.0 - now) if now < 1.0 else 0.0

    def ages(self, *, updates: int, every: int, begun: int = 0) -> list[int]:
        """One every so many updates, as of a `Window`."""
        spacing = max(1, (self.every or every) // every)
        newest = updates % spacing
        return list(range(newest, updates - begun, spacing)[: self.snapshots or 0])

    def sums(self, *, updates: int, every: int) -> Sums:
        """In blocks of steps of which the shares hardly differ."""
        steps, spacing = updates * every, self.every or every
        # The update that ends it may come after its last step.
        last = steps - steps % spacing if self.end is None else -(-self.end // every) * every
        reached = min(last, steps)
        over = min(self.over, last)
        begin = (self.end or last) - over
        count = -(-(reached - begin) // spacing)
        if count <= 0:
            return Sums(1.0, float(updates), 1.0)
        age = squares = total = 0.0
        oldest, before = count, 1.0
        while oldest > 0:
            size = min(oldest, max(1, (count - oldest) // _BLOCK))
            oldest -= size
            newest = reached - oldest * spacing
            now = self.left(newest - begin, over)
            share, before = before - now, now
            total += share
            squares += share**2 / size
            age += share * (steps - newest + (size - 1) * spacing / 2.0) / every
        return Sums(0.0, age / total, squares / total**2)

    def likeness(self, *, steps: int, updates: int) -> tuple[str, Hashable]:
        """Those that have not begun hold the initial weights."""
        if self.end is not None and steps <= self.end - self.over:
            return "none has begun", None
        return super().likeness(steps=steps, updates=updates)

    def describe(self, every: int) -> str:
        """What it stands for, and from what it is made."""
        stands = f"stands for a {self.shape} decay of the learning rate over {self.over} steps"
        if self.end is not None:
            return f"{stands} that ends at step {self.end}"
        return f"{stands}, from {self.snapshots} copies, one every {self.every or every} steps"


_BLOCK = 1_000
"""Shares that are summed as one are at most this part of those before them."""
