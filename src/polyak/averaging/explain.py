"""What a bank of averages means for the run it is in, in words."""

from collections.abc import Mapping
from math import log

from polyak.averaging.kinds import EMA, Average, PowerEMA


def explain(
    averages: Mapping[str, Average],
    initial_share: Mapping[str, float],
    *,
    every: int,
    steps: int,
    updates: int,
) -> str:
    """One line per average and one per pair that cannot be told apart so far.

    Args:
        averages: The bank's averages by name, decays per update.
        initial_share: Weight that the initial weights still have in each, in [0, 1].
        every: Steps per update.
        steps: Optimizer steps so far.
        updates: Updates so far.
    """
    lines = [f"{len(averages)} averages, one update every {every} steps, {updates} updates so far"]
    for name, average in averages.items():
        share = initial_share[name]
        lines.append(f"{name}: {_nature(average, every)}; initial weights {share:.2%}")
    lines += [
        f"{' = '.join(group)}: equal so far, all inside warm-up"
        for group in coinciding(averages, steps=steps, updates=updates)
    ]
    return "\n".join(lines)


def coinciding(averages: Mapping[str, Average], *, steps: int, updates: int) -> list[list[str]]:
    """Groups of EMAs that are equal so far because warm-up alone has set their decays.

    Args:
        averages: Averages by name, decays per update.
        steps: Optimizer steps so far.
        updates: Updates so far.

    Returns:
        Groups of two or more names, in the order of `averages`.
    """
    groups: dict[str, list[str]] = {}
    for name, average in averages.items():
        if isinstance(average, EMA):
            # t of the last update that took place
            t = updates - 1 if average.warmup_counts == "updates" else steps - 1
            if average.warms_up_at(t):
                groups.setdefault(average.warmup_counts, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _nature(average: Average, every: int) -> str:
    if isinstance(average, EMA):
        return _ema(average, every)
    if isinstance(average, PowerEMA):
        gamma = average.exponent
        return f"power function, γ {gamma:.3g}, mean age {1 / (gamma + 2):.1%} of the run so far"
    return f"plain mean of all updates after step {average.start}"


def _ema(average: EMA, every: int) -> str:
    if average.decay == 0.0:
        return "the weights of the last update"
    half = log(0.5) / log(average.decay)
    words = f"decay {average.decay:g} per update, half-life {half:.1f} updates"
    words += f" ({half * every:.0f} steps)"
    if average.warmup is None:
        return f"{words}, no warm-up"
    t = average.warmup_updates
    end = f"update {t + 1} (step {(t + 1) * every})"
    if average.warmup_counts == "steps":
        end = f"step {t + 1}"
    return f"{words}, warm-up governs until {end}"
