"""What an average is made of: the exact weight of the start and of every update in it."""

from collections.abc import Iterator
from itertools import accumulate, count, islice, repeat
from typing import NamedTuple

from polyak.averaging.kinds import Average, Update, as_average
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.kinds.profiles.long_runs import Sums, after_steady, steady_squares
from polyak.errors import ConfigError, StateError
from polyak.numbers import is_whole


def profile(average: float | Average, *, updates: int, every: int = 1) -> tuple[float, ...]:
    """Weights of the initial weights and of those at each update, in the average after them.

        m_u = Σ s_i·x_i,   s_i = w_i·Π_{j>i} (1 − w_j),   w_0 = 1,   Σ s_i = 1

    Args:
        average: A kind, or the decay of an EMA.
        updates: Updates that have taken place, ≥ 0, after steps every, 2·every, …
        every: Optimizer steps per update, ≥ 1.

    Returns:
        updates + 1 weights: of the initial weights, then of each update in turn. They sum to 1
        up to rounding, as those of an average in float64 do.

    Raises:
        ConfigError: for counts outside their range.

    Source:
        The recurrence of `Averager`, written out.

    Example:
        >>> from polyak.averaging.kinds import EMA, Uniform
        >>> profile(Uniform(), updates=2)
        (0.0, 0.5, 0.5)
        >>> profile(EMA(0.5, warmup=None), updates=2)
        (0.25, 0.25, 0.5)
    """
    return shares_in(as_average(average), updates=updates, every=every)


def shares_in(kind: Average, *, updates: int, every: int, begun: int = 0) -> tuple[float, ...]:
    """`profile` of an average that joined its bank after `begun` updates."""
    if kind.parts:
        return _combined(kind, updates=updates, every=every, begun=begun)
    _check_counts(updates=updates, every=every)
    at_period = kind.at_period(every)
    if ages := at_period.ages(updates=updates, every=every, begun=begun):
        found = [0.0] * (updates + 1)
        for age, share in zip(ages, shares_by_age(at_period, len(ages)), strict=True):
            found[updates - age] = share
        return tuple(found)
    weights = [1.0, *regular_weights(kind, updates=updates, every=every, begun=begun)]
    # Shares that later updates leave, from the last one back.
    kept = accumulate(reversed(weights), lambda left, w: left * (1.0 - w), initial=1.0)
    shares = [w * left for w, left in zip(reversed(weights), kept, strict=False)]
    return tuple(reversed(shares))


def _combined(kind: Average, *, updates: int, every: int, begun: int) -> tuple[float, ...]:
    """Σ_k c_k·s_i^k."""
    total = [0.0] * (updates + 1)
    for part, share in kind.parts:
        own = shares_in(part, updates=updates, every=every, begun=begun)
        total = [t + share * s for t, s in zip(total, own, strict=True)]
    return tuple(total)


def shares_by_age(kind: Average, count: int) -> list[float]:
    """Shares of the snapshots of an average, the newest first."""
    own = kind.snapshot_shares(count)
    return [1.0 / count] * count if own is None else list(reversed(own))


def folded_in(kind: Average, *, updates: int, every: int) -> int:
    """How many of a regular run's updates an average at its period has taken in."""
    counts = (folded for _, folded in _folding(kind, every=every, begun=0))
    return next(islice(counts, updates - 1, None)) if updates else 0


def regular_weights(
    average: Average, *, updates: int, every: int, begun: int = 0
) -> Iterator[float]:
    """The lerp weight w of each update of a regular run in turn.

    An average that joined its bank after `begun` updates began as a copy of the weights then.
    """
    _check_counts(updates=updates, every=every)
    return islice(_weights(average.at_period(every), every=every, begun=begun), updates)


def _check_counts(*, updates: int, every: int) -> None:
    for name, given, least in (("updates", updates, 0), ("every", every, 1)):
        if not is_whole(given, least=least):
            raise ConfigError(f"{name} is {given!r}; expected an integer >= {least}.")


def _weights(kind: Average, *, every: int, begun: int) -> Iterator[float]:
    """The same of a run without end."""
    yield from repeat(1.0, begun)
    yield from (w for w, _ in _folding(kind, every=every, begun=begun))


def _folding(kind: Average, *, every: int, begun: int) -> Iterator[tuple[float, int]]:
    """The lerp weight of each update from `begun` on, and how many are in the average then."""
    folded = 0
    for index in count(begun):
        update = Update(index, (index + 1) * every, every)
        w = kind.weight(update, folded)
        folded = kind.folded_after(update, folded, w)
        yield w, folded


class MeanAge:
    """The mean age of one average, asked again and again as its run goes on.

    Goes on from the last answer, where `contents` walks through all updates before the decay is
    steady.

    Example:
        >>> from polyak.averaging.kinds import Uniform
        >>> age = MeanAge(Uniform(), every=1)
        >>> [age.after(updates) for updates in (0, 5, 7)]
        [0.0, 2.0, 3.0]
    """

    def __init__(self, kind: Average, *, every: int, begun: int = 0) -> None:
        self.kind = kind
        self.begun = begun
        self._every = every
        self._begin()

    def _begin(self) -> None:
        self._weights = _weights(self.kind, every=self._every, begun=self.begun)
        self._updates, self._age = 0, 0.0

    def after(self, updates: int) -> float:
        """The mean age in updates when so many have taken place."""
        ages = self.kind.ages(updates=updates, every=self._every, begun=self.begun)
        if ages:
            shares = shares_by_age(self.kind, len(ages))
            return sum(share * age for share, age in zip(shares, ages, strict=True))
        if updates < self._updates:
            self._begin()
        for w in islice(self._weights, updates - self._updates):
            self._age = (self._age + 1.0) * (1.0 - w)
        self._updates = updates
        return self._age


class Contents(NamedTuple):
    """A profile in three numbers."""

    initial_share: float
    """Weight of the initial weights, s_0, in [0, 1]."""

    mean_age: float
    """Σ s_i·(u − i) in updates: the initial weights are u updates old, the last ones 0. Its lag."""

    squares: float
    """Σ s_i², the share of one weight's noise that is left where noise is independent. > 0."""

    @property
    def effective(self) -> float:
        """1 / Σ s_i²: the plain mean of so many weights has as little noise."""
        return 1.0 / self.squares


def contents(average: float | Average, *, updates: int, every: int = 1, begun: int = 0) -> Contents:
    """What `profile` says in three numbers, without writing it out.

    Kinds that know no shorter way, and averages that joined later, are gone through update by
    update.

    Args:
        average: And what follows, as for `profile`.
        updates: See `average`.
        every: See `average`.
        begun: Updates of the bank before the average joined it.

    Example:
        >>> from polyak.averaging.kinds import EMA, Uniform
        >>> contents(Uniform(), updates=4)
        Contents(initial_share=0.0, mean_age=1.5, squares=0.25)
        >>> round(contents(EMA(0.99, warmup=None), updates=10**9).mean_age, 6)
        99.0
    """
    _check_counts(updates=updates, every=every)
    kind = as_average(average).at_period(every)
    if kind.parts:
        return _combined_contents(kind, updates=updates, every=every, begun=begun)
    summed = not begun and updates > _GONE_THROUGH
    if summed and (found := kind.sums(updates=updates, every=every)):
        return Contents(*found)
    if ages := kind.ages(updates=updates, every=every, begun=begun):
        shares = shares_by_age(kind, len(ages))
        age = sum(share * age for share, age in zip(shares, ages, strict=True))
        return Contents(0.0, age, sum(share**2 for share in shares))
    return Contents(*_gone_through(kind, updates=updates, every=every, begun=begun))


def _combined_contents(kind: Average, *, updates: int, every: int, begun: int) -> Contents:
    """Share and age are sums over the parts; squares need their products."""
    own = [contents(k, updates=updates, every=every, begun=begun) for k, _ in kind.parts]
    shares = [share for _, share in kind.parts]
    squares = _squares_combined(kind, updates=updates, every=every, begun=begun)
    return Contents(
        sum(c * x.initial_share for c, x in zip(shares, own, strict=True)),
        sum(c * x.mean_age for c, x in zip(shares, own, strict=True)),
        squares,
    )


def _squares_combined(kind: Average, *, updates: int, every: int, begun: int) -> float:
    """Σ_i (Σ_k c_k·s_i^k)², in closed form once all decays are steady."""
    steady = [k.steady(every) for k, _ in kind.parts]
    if any(found is None for found in steady):
        shares = shares_in(kind, updates=updates, every=every, begun=begun)
        return sum(share**2 for share in shares)
    known = [found for found in steady if found]
    walked = min(max(begun, *(begin for begin, _ in known)), updates)
    profiles = [
        (c, d, shares_in(k, updates=walked, every=every, begun=begun))
        for (k, c), (_, d) in zip(kind.parts, known, strict=True)
    ]
    total, rest = 0.0, updates - walked
    for a, d, one in profiles:
        for b, e, other in profiles:
            begun_with = sum(s * t for s, t in zip(one, other, strict=True))
            total += a * b * ((d * e) ** rest * begun_with + steady_squares(d, e, rest))
    return total


_GONE_THROUGH = 10_000
"""Updates that take no time to go through: their sums are exact, and to the digit those of then."""


def _gone_through(kind: Average, *, updates: int, every: int, begun: int) -> Sums:
    steady_from, d = kind.steady(every) or (updates, 0.0)
    walked = min(max(steady_from, begun), updates)
    share, age, squares = 1.0, 0.0, 1.0
    for w in regular_weights(kind, updates=walked, every=every, begun=begun):
        share, age = share * (1.0 - w), (age + 1.0) * (1.0 - w)
        squares = squares * (1.0 - w) ** 2 + w**2
    found = Sums(share, age, squares)
    return after_steady(found, d, updates - walked) if walked < updates else found


def regular(average: Average, counters: Counters, *, folded: int) -> Average | None:
    """A kind with the bank's lerp weights at updates after steps every, 2·every, …, if known.

    Skipped and additional updates lie at steps that a bank does not remember.
    """
    updates, every = counters.updates, counters.every
    if counters.position == updates * every and not counters.skipped:
        return average
    return average.regular(updates=updates, folded=folded, every=every)


def profile_in_bank(
    average: Average, counters: Counters, *, folded: int, begun: int = 0
) -> tuple[float, ...]:
    """`profile` for the present state of a bank.

    Args:
        average: One of the bank's.
        counters: The bank's.
        folded: How many of the updates count in the average.
        begun: Updates before the average joined the bank.

    Raises:
        StateError: if it depends on the steps of updates that the bank does not remember.
    """
    kind = regular(average, counters, folded=folded)
    if kind is None:
        raise StateError(
            f"{counters.updates} updates reach to step {counters.position}, {counters.skipped} "
            f"were skipped; expected one every {counters.every} steps, since the profile of "
            f"{average.label!r} depends on when they took place. "
            "Ask polyak.profile for that of a regular run."
        )
    return shares_in(kind, updates=counters.updates, every=counters.every, begun=begun)
