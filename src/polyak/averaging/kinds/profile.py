"""What an average is made of: the exact weight of the start and of every update in it."""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from polyak.averaging.kinds import EMA, Average, Uniform, Update, Window, as_average
from polyak.averaging.kinds.counters import History
from polyak.errors import ConfigError, StateError


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
        >>> profile(Uniform(), updates=2)
        (0.0, 0.5, 0.5)
        >>> profile(EMA(0.5, warmup=None), updates=2)
        (0.25, 0.25, 0.5)
    """
    kind = as_average(average)
    weights = [1.0, *lerp_weights(kind, updates=updates, every=every)]
    if isinstance(kind, Window) and (ages := kind.ages(updates=updates, every=every)):
        kept_ages = set(ages)
        return tuple((updates - i in kept_ages) / len(ages) for i in range(updates + 1))
    # Shares that later updates leave, from the last one back.
    kept = accumulate(reversed(weights), lambda left, w: left * (1.0 - w), initial=1.0)
    shares = [w * left for w, left in zip(reversed(weights), kept, strict=False)]
    return tuple(reversed(shares))


def lerp_weights(average: Average, *, updates: int, every: int) -> Iterator[float]:
    """The lerp weight w of each update in turn."""
    for name, count, least in (("updates", updates, 0), ("every", every, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ConfigError(f"{name} is {count!r}; expected an integer >= {least}.")
    kind = average.at_period(every)
    folded = 0
    for index in range(updates):
        w = kind.weight(Update(index, (index + 1) * every, every), folded)
        folded += w > 0
        yield w


class Contents(NamedTuple):
    """A profile in two numbers."""

    initial_share: float
    """Weight of the initial weights, s_0, in [0, 1]."""

    mean_age: float
    """Σ s_i·(u − i) in updates: the initial weights are u updates old, the last ones 0."""


def contents(average: float | Average, *, updates: int, every: int = 1) -> Contents:
    """What `profile` says in two numbers, in O(u) without writing it out.

    Example:
        >>> contents(Uniform(), updates=5)
        Contents(initial_share=0.0, mean_age=2.0)
        >>> round(contents(EMA(0.99, warmup=None), updates=10**9).mean_age, 6)
        99.0
    """
    kind = as_average(average).at_period(every)
    if isinstance(kind, Window) and (ages := kind.ages(updates=updates, every=every)):
        return Contents(0.0, sum(ages) / len(ages))
    walked = _varying(kind, updates=updates, every=every)
    share, age = 1.0, 0.0
    for w in lerp_weights(kind, updates=walked, every=every):
        share, age = share * (1.0 - w), (age + 1.0) * (1.0 - w)
    if isinstance(kind, EMA) and walked < updates:
        # From here on d is constant, so the recurrence is a geometric sum.
        d, left = kind.decay, kind.decay ** (updates - walked)
        share, age = share * left, age * left + d * (1.0 - left) / (1.0 - d)
    return Contents(share, age)


def regular(average: Average, history: History, *, folded: int) -> Average | None:
    """A kind with the bank's lerp weights at updates after steps every, 2·every, …, if known.

    Skipped and additional updates lie at steps that a bank does not remember. An EMA whose
    warm-up counts updates does not depend on them, and a mean knows that it took the last
    `folded` updates in.
    """
    updates, every, steps = history.updates, history.every, history.position
    skipped = history.skipped
    if steps == updates * every and not skipped:
        return average
    if isinstance(average, Uniform):
        return Uniform(start=(updates - folded) * every, name=average.label)
    if isinstance(average, Window) and average.every is None:
        return average
    if isinstance(average, EMA) and (average.warmup is None or average.warmup_counts == "updates"):
        return average
    return None


def profile_in_bank(average: Average, history: History, *, folded: int) -> tuple[float, ...]:
    """`profile` for the present state of a bank, of whose updates `folded` count in the average.

    Raises:
        StateError: if it depends on the steps of updates that the bank does not remember.
    """
    kind = regular(average, history, folded=folded)
    if kind is None:
        raise StateError(
            f"{history.updates} updates reach to step {history.position}, {history.skipped} were "
            f"skipped; expected one every {history.every} steps, since the profile of "
            f"{average.label!r} depends on when they took place. "
            "Ask polyak.averaging.profile for that of a regular run."
        )
    return profile(kind, updates=history.updates, every=history.every)


def _varying(kind: Average, *, updates: int, every: int) -> int:
    """Updates after which the lerp weight is known to be constant, or all of them."""
    if not isinstance(kind, EMA):
        return updates
    end = min(updates, kind.governed_updates(every))
    settled = Update(end, (end + 1) * every, every)
    return end if kind.weight(settled, end) == 1.0 - kind.decay else updates
