"""What a bank of averages means for the run it is in, in words."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from math import log

from polyak.averaging.kinds import EMA, Average, PowerEMA, Schedule, Uniform, Window
from polyak.averaging.kinds.counters import History
from polyak.averaging.kinds.profile import contents, regular
from polyak.averaging.kinds.warmups import NEVER, Exponential
from polyak.errors import ConfigError

_Key = tuple[str, Hashable]


def explain(
    averages: Mapping[str, Average],
    history: History,
    *,
    total_steps: int | None = None,
) -> str:
    """One line per average, then warnings where an average is not what its settings say.

    Args:
        averages: The bank's averages by name, decays per update.
        history: The bank's updates so far.
        total_steps: Optimizer steps of the planned run, ≥ 1, to say how it will end; updates are
            then taken to come every `history.every` steps from its start.

    Example:
        >>> print(explain({"m": EMA(0.9)}, History(every=1), total_steps=90))
        1 average, one update every 1 steps, 0 updates so far
        m: decay 0.9 per update, half-life 6.6 updates (7 steps), warm-up governs until update 80 \
(step 80); initial weights 100.00%; at step 90 mean age 8.7 updates (9 steps), initial weights 0.00%
        warning: m: warm-up will govern 88.9% of the planned 90 steps
    """
    if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
        raise ConfigError(f"total_steps is {total_steps!r}; expected an integer >= 1, or None.")
    many = f"{len(averages)} average{'s' if len(averages) != 1 else ''}"
    every, updates = history.every, history.updates
    lines = [f"{many}, one update every {every} steps, {updates} updates so far"]
    for name, average in averages.items():
        line = f"{name}: {_nature(average, every)}"
        if updates:
            kind = regular(average, history, folded=history.folded.get(name, 0))
            line += f"; {_age(kind, updates=updates, every=every)}"
        line += f"; initial weights {history.initial_share.get(name, 1.0):.2%}"
        if total_steps is not None:
            line += f"; at step {total_steps} {_end(average, every, total_steps)}"
        lines.append(line)
    found = list(_warnings_now(averages, history))
    if total_steps is not None:
        found += _warnings_ahead(averages, every=every, total_steps=total_steps)
    return "\n".join(lines + [f"warning: {warning}" for warning in found])


def coinciding(averages: Mapping[str, Average], *, steps: int, updates: int) -> list[list[str]]:
    """Groups of averages that are equal so far, to the bit.

    EMAs whose decays warm-up alone has set, means that have not begun, and one average under
    several names.

    Args:
        averages: Averages by name, decays per update.
        steps: The step up to which the updates reach.
        updates: Updates so far.

    Returns:
        Groups of two or more names, in the order of `averages`.
    """
    return [names for _, names in _groups(averages, steps=steps, updates=updates)]


def _groups(
    averages: Mapping[str, Average], *, steps: int, updates: int
) -> list[tuple[str, list[str]]]:
    """Groups as in `coinciding`, each with the reason."""
    groups: dict[_Key, list[str]] = {}
    for name, average in averages.items():
        groups.setdefault(_likeness(average, steps=steps, updates=updates), []).append(name)
    return [(key[0], names) for key, names in groups.items() if len(names) > 1]


def _likeness(average: Average, *, steps: int, updates: int) -> _Key:
    """Equal for averages that have had the same lerp weights at every update so far."""
    if isinstance(average, EMA):
        # t of the last update that took place. Ramps rise in t and fall in the span of an
        # update, so a ramp that governs here with span 1 has governed every update before.
        t = updates - 1 if average.warmup_counts == "updates" else steps - 1
        if average.warms_up_at(t):
            return "all inside warm-up", (average.warmup, average.warmup_counts)
    if isinstance(average, Uniform) and steps <= average.start:
        return "none has begun", None
    if isinstance(average, Schedule):
        return "one function", id(average.function)
    if isinstance(average, Window):
        taken = updates if average.every is None else steps // average.every
        if taken <= average.last:
            return "no window has dropped a snapshot", average.every
    return "one average under several names", replace(average, name=None)


def _warnings_now(averages: Mapping[str, Average], history: History) -> Iterator[str]:
    updates, every, steps = history.updates, history.every, history.position
    if not updates:
        return
    for name, average in averages.items():
        if isinstance(average, EMA):
            done = updates if average.warmup_counts == "updates" else steps
            if done <= average.warmup_end(every):
                yield f"{name}: warm-up has governed every update so far"
    for reason, names in _groups(averages, steps=steps, updates=updates):
        yield f"{' = '.join(names)}: equal so far, {reason}"


def _warnings_ahead(
    averages: Mapping[str, Average], *, every: int, total_steps: int
) -> Iterator[str]:
    for name, average in averages.items():
        share = _governed(average, every) / total_steps
        if share >= 0.5:
            part = "all" if share >= 1 else f"{share:.1%}"
            yield f"{name}: warm-up will govern {part} of the planned {total_steps} steps"
    then = total_steps // every
    for reason, names in _groups(averages, steps=then * every, updates=then):
        yield f"{' = '.join(names)}: equal until step {total_steps}, {reason}"


def _governed(average: Average, every: int) -> int:
    """The step up to which warm-up governs, 0 without one."""
    if not isinstance(average, EMA):
        return 0
    end = average.warmup_end(every)
    return end if average.warmup_counts == "steps" else end * every


def _age(kind: Average | None, *, updates: int, every: int) -> str:
    if kind is None:
        return "mean age unknown, since updates were skipped or additional"
    age = contents(kind, updates=updates, every=every).mean_age
    return f"mean age {age:.1f} updates ({age * every:.0f} steps)"


def _end(average: Average, every: int, total_steps: int) -> str:
    updates = total_steps // every
    share = contents(average, updates=updates, every=every).initial_share
    return f"{_age(average, updates=updates, every=every)}, initial weights {share:.2%}"


def _nature(average: Average, every: int) -> str:
    if isinstance(average, EMA):
        return _ema(average, every)
    if isinstance(average, PowerEMA):
        gamma = average.exponent
        return f"power function, γ {gamma:.3g}, mean age {1 / (gamma + 2):.1%} of the run so far"
    if isinstance(average, Schedule):
        return "lerp weights of a function of yours"
    if isinstance(average, Window):
        spacing = average.every or every
        return f"plain mean of the last {average.last} snapshots, one every {spacing} steps"
    return f"plain mean of all updates after step {average.start}"


def _ema(average: EMA, every: int) -> str:
    if average.decay == 0.0:
        return "the weights of the last update"
    half = log(0.5) / log(average.decay)
    words = f"decay {average.decay:g} per update, half-life {half:.1f} updates"
    words += f" ({half * every:.0f} steps)"
    if average.warmup is None:
        return f"{words}, no warm-up"
    end = average.warmup_end(every)
    if end == 0 or end >= NEVER:
        return f"{words}, warm-up never {'governs' if end == 0 else 'ends'}"
    governed = average.governed_updates(every)
    when = f"update {governed} (step {governed * every})"
    if average.warmup_counts == "steps":
        when = f"step {end} (update {governed})"
    settled = " (within 1%)" if isinstance(average.ramp, Exponential) else ""
    return f"{words}, warm-up governs until {when}{settled}"
