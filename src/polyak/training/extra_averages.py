"""Averages of other kinds along the same trajectory, beside the bank of EMAs.

tail    uniform over the last quarter of the run
lawa    uniform over the last six snapshots, an epoch apart
power   power-function EMA whose width is a tenth of the run
window  power-function EMAs whose mean age is 1 %, 6.7 % and 10 % of the run so far
swad    uniform over the epochs that SWAD's rule found on a hold-out; in runs without one

They ride along as SWA does, change nothing in training, and are evaluated when it is over: none
is chosen among, so none costs an evaluation an epoch. The shares and counts are ours.
"""

from torch import Tensor, nn

from polyak.averaging import Averager, PowerEMA, Schedule, Uniform, Window
from polyak.averaging.kinds import Average, Update
from polyak.records.vocabulary import AT_STOPS, MoreAverage
from polyak.training.config import RunConfig

TAIL_SHARE = 0.25
"""Of the run's steps."""

LAWA_SNAPSHOTS = 6
POWER_WIDTH = 0.1
"""Standard deviation of the profile as a share of the run: EDM2's sigma_rel."""
MEAN_AGES: dict[MoreAverage, float] = {"window_1": 0.01, "window_7": 0.067, "window_10": 0.1}
"""Mean ages, as shares of the run: about Ajroldi et al.'s window (2025), that of an average whose
half-life is a twentieth of the time elapsed, and that of the paper's warm-up, which is γ = 8."""


def build_swa(model: nn.Module, config: RunConfig, *, steps_per_epoch: int) -> Averager:
    """Uniform over epoch ends: one update an epoch, counted once half the budget is over."""
    half = config.epochs // 2 * steps_per_epoch
    swa = Uniform(start=half, name="swa")
    return Averager(model, [swa], every=steps_per_epoch, nonfinite="allow")


def build_extra_averager(
    model: nn.Module, config: RunConfig, *, steps_per_epoch: int
) -> Averager | None:
    """The averager of a run's `more_averages`, with the period of its bank of EMAs."""
    every = config.averaging.every
    steps = config.epochs * steps_per_epoch
    # Snapshots can be taken at updates only, so an epoch is rounded to whole periods.
    spacing = max(1, round(steps_per_epoch / every)) * every
    known: dict[str, Average] = {
        "tail": Uniform(start=round((1 - TAIL_SHARE) * steps), name="tail"),
        "lawa": Window(LAWA_SNAPSHOTS, every=spacing, name="lawa"),
        "power": PowerEMA(sigma_rel=POWER_WIDTH, name="power"),
        **{name: PowerEMA(gamma=gamma_of_age(age), name=name) for name, age in MEAN_AGES.items()},
    }
    if config.swad is not None:
        first, last = config.swad
        known["swad"] = uniform_between((first - 1) * steps_per_epoch, last * steps_per_epoch)
    wanted = [known[name] for name in config.more_averages if name in known]
    if not wanted:
        return None
    buffers = config.averaging.buffers
    return Averager(model, wanted, every=every, buffers=buffers, nonfinite="allow")


def gamma_of_age(age: float) -> float:
    """Exponent of the power-function average of a mean age, given as a share of the run in (0, ½).

        γ = 1/age − 2,  since the mean age of a profile s^γ on (0, 1] is 1/(γ + 2)

    Example:
        >>> round(gamma_of_age(0.1), 6)
        8.0
    """
    return 1 / age - 2


def uniform_between(start: int, end: int) -> Schedule:
    """The mean of the weights at all updates with start < step ≤ end, as "swad".

    Example:
        >>> swad = uniform_between(4, 8)
        >>> [swad.weight(Update(n, 2 * n + 2, 2), folded=0) for n in range(6)]
        [0.0, 0.0, 1.0, 0.5, 0.0, 0.0]
    """

    def weight(update: Update) -> float:
        if not start < update.step <= end:
            return 0.0
        # Updates come every `since` steps, so these are the ones before it that count.
        return 1.0 / (update.index + 1 - start // update.since)

    return Schedule(weight, name="swad")


def copy_averages(bank: Averager | None, *, at_stop: bool = False) -> dict[str, dict[str, Tensor]]:
    """Copies of the averages that have taken in weights, by name.

    Args:
        bank: From `build_extra_averager`.
        at_stop: Only those of `AT_STOPS`.
    """
    if bank is None:
        return {}
    return {
        name: bank.tensors(name)
        for name in bank.names
        if bank.has_begun(name) and (name in AT_STOPS or not at_stop)
    }
