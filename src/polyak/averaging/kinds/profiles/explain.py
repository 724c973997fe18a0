"""What a bank of averages means for the run it is in, in words."""

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Mapping, Sequence

from polyak.averaging.kinds.average import Average
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.kinds.profiles.profile import contents, regular
from polyak.errors import ConfigError


def explain(
    averages: Mapping[str, Average],
    counters: Counters,
    *,
    total_steps: int | None = None,
) -> str:
    """One line per average, then warnings where an average is not what its settings say.

    Args:
        averages: The bank's averages by name, decays per update.
        counters: The bank's updates so far.
        total_steps: Optimizer steps of the planned run, ≥ 1, to say how it will end; updates are
            then taken to come every `counters.every` steps from its start.

    Example:
        >>> from polyak.averaging.kinds import EMA
        >>> print(explain({"m": EMA(0.9)}, Counters(every=1), total_steps=90))
        1 average, one update every 1 steps, 0 updates so far
        m: decay 0.9 per update, half-life 6.6 updates (7 steps), warm-up governs until update 80 \
(step 80); initial weights 100.00%; at step 90 mean age 8.7 updates (9 steps), 18.9 effective \
weights, initial weights 0.00%
        warning: m: warm-up will govern 88.9% of the planned 90 steps
    """
    if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
        raise ConfigError(f"total_steps is {total_steps!r}; expected an integer >= 1, or None.")
    many = f"{len(averages)} average{'s' if len(averages) != 1 else ''}"
    every, updates = counters.every, counters.updates
    lines = [f"{many}, one update every {every} steps, {updates} updates so far"]
    for name, average in averages.items():
        line = f"{name}: {average.describe(every)}"
        begun = counters.begun.get(name, 0)
        if begun:
            line += f"; began anew after update {begun}"
        if updates:
            kind = regular(average, counters, folded=counters.folded.get(name, 0))
            line += f"; {_age(kind, updates=updates, every=every, begun=begun)}"
        line += f"; initial weights {counters.initial_share.get(name, 1.0):.2%}"
        if total_steps is not None:
            line += f"; at step {total_steps} {_end(average, every, total_steps)}"
        lines.append(line)
    found = list(_warnings_now(averages, counters))
    if total_steps is not None:
        found += _warnings_ahead(averages, every=every, total_steps=total_steps)
    return "\n".join(lines + [f"warning: {warning}" for warning in found])


def coinciding(
    averages: Mapping[str, Average],
    *,
    steps: int,
    updates: int,
    begun: Mapping[str, int] | None = None,
) -> list[list[str]]:
    """Groups of averages that are equal so far, to the bit.

    EMAs whose decays warm-up alone has set, means that have not begun, and one average under
    several names.

    Args:
        averages: Averages by name, decays per update.
        steps: The step up to which the updates reach.
        updates: Updates so far.
        begun: Of those that joined their bank later, the updates before.

    Returns:
        Groups of two or more names, in the order of `averages`.
    """
    groups = equal_groups(averages, steps=steps, updates=updates, begun=begun)
    return [names for _, names in groups]


def equal_groups(
    averages: Mapping[str, Average],
    *,
    steps: int,
    updates: int,
    begun: Mapping[str, int] | None = None,
) -> list[tuple[str, list[str]]]:
    """Groups as in `coinciding`, each with the reason."""
    groups: dict[tuple[str, Hashable, int], list[str]] = {}
    for name, average in averages.items():
        reason, same = average.likeness(steps=steps, updates=updates)
        groups.setdefault((reason, same, (begun or {}).get(name, 0)), []).append(name)
    return [(key[0], names) for key, names in groups.items() if len(names) > 1]


def equal_until(averages: Sequence[Average], counters: Counters) -> int | None:
    """The last step at which averages that are equal so far will be so, with regular updates.

    None if there is no end in sight.
    """

    def step(ahead: int) -> int:
        return counters.position + ahead * counters.every

    def equal(ahead: int) -> bool:
        updates = counters.updates + ahead
        return len({x.likeness(steps=step(ahead), updates=updates) for x in averages}) == 1

    beyond = 1
    while equal(beyond):
        beyond *= 2
        if beyond > _SIGHT:
            return None
    return step(bisect_left(range(beyond), True, key=lambda ahead: not equal(ahead)) - 1)


_SIGHT = 2**40
"""Updates ahead that are looked at; no run has as many."""


def _warnings_now(averages: Mapping[str, Average], counters: Counters) -> Iterator[str]:
    updates, every, steps = counters.updates, counters.every, counters.position
    if not updates:
        return
    for name, average in averages.items():
        governed = average.warmup_steps(every)
        done = steps if average.depends_on_steps else updates * every
        if governed is None or done <= governed:
            yield f"{name}: warm-up has governed every update so far"
        if doubt := average.doubt(steps):
            yield doubt
    groups = equal_groups(averages, steps=steps, updates=updates, begun=counters.begun)
    for reason, names in groups:
        yield f"{' = '.join(names)}: equal so far, {reason}"


def _warnings_ahead(
    averages: Mapping[str, Average], *, every: int, total_steps: int
) -> Iterator[str]:
    for name, average in averages.items():
        governed = average.warmup_steps(every)
        share = 1.0 if governed is None else governed / total_steps
        if share >= 0.5:
            part = "all" if share >= 1 else f"{share:.1%}"
            yield f"{name}: warm-up will govern {part} of the planned {total_steps} steps"
    then = total_steps // every
    for reason, names in equal_groups(averages, steps=then * every, updates=then):
        yield f"{' = '.join(names)}: equal until step {total_steps}, {reason}"


def _age(kind: Average | None, *, updates: int, every: int, begun: int = 0) -> str:
    if kind is None:
        return "mean age unknown, since updates were skipped or additional"
    found = contents(kind, updates=updates, every=every, begun=begun)
    age = found.mean_age
    steps = f"{age * every:.0f} steps"
    return f"mean age {age:.1f} updates ({steps}), {found.effective:.1f} effective weights"


def _end(average: Average, every: int, total_steps: int) -> str:
    updates = total_steps // every
    share = contents(average, updates=updates, every=every).initial_share
    return f"{_age(average, updates=updates, every=every)}, initial weights {share:.2%}"
