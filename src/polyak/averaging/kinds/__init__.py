"""What an average is: a schedule of lerp weights.

Update number t of every kind is  m ← m + w·(x − m),  w = 1 − d,  where x are the model's
weights and m the average's. The kinds differ only in w, so they live side by side in one bank.
A `Window` forgets weights entirely, and keeps its snapshots beside its mean; so may `Annealed`. A
`Combination` is a sum of others, which is read and not kept.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

from polyak.averaging.kinds.annealed import Annealed
from polyak.averaging.kinds.average import Average, Update
from polyak.averaging.kinds.combination import Combination, Initial
from polyak.averaging.kinds.ema import EMA
from polyak.averaging.kinds.lengths import fitted_decays
from polyak.averaging.kinds.means import Uniform, Window
from polyak.averaging.kinds.power import PowerEMA
from polyak.averaging.kinds.schedule import Schedule
from polyak.averaging.kinds.targets import CosineEMA, HardCopy
from polyak.errors import ConfigError
from polyak.numbers import is_number

__all__ = [
    "EMA",
    "KINDS",
    "Annealed",
    "Average",
    "Combination",
    "CosineEMA",
    "HardCopy",
    "Initial",
    "PowerEMA",
    "Schedule",
    "Uniform",
    "Update",
    "Window",
    "as_average",
    "as_averages",
    "lerp_weights",
]

KINDS: dict[str, type[Average]] = {
    "ema": EMA,
    "power": PowerEMA,
    "uniform": Uniform,
    "schedule": Schedule,
    "window": Window,
    "cosine": CosineEMA,
    "hard_copy": HardCopy,
    "annealed": Annealed,
    "initial": Initial,
}
"""The kinds of this package, by the names that records have for them."""


def as_average(value: "float | Average") -> Average:
    """An average as given, or an EMA of the decay given as a plain number."""
    average = EMA(float(value)) if is_number(value) else value
    if not isinstance(average, Average):
        raise ConfigError(
            f"an average is {value!r}; expected a decay or one of "
            f"{', '.join(kind.__name__ for kind in KINDS.values())}, or a kind of your own, "
            "which is a subclass of polyak.Average."
        )
    return average


def as_averages(values: Any, *, updates: int | None = None) -> tuple[list[Average], list[str]]:
    """The averages among decays and kinds, and what is wrong with the others and with their names.

    One alone may come without a list.

    Args:
        values: Decays and kinds.
        updates: Of the whole run, to which plain decays are fitted; None takes them as they are.

    Example:
        >>> as_averages([0.9, Uniform(), 0.9])[1]
        ["the name 'ema_0.9' is given twice; pass name= to tell them apart"]
    """
    if isinstance(values, Real | Average):
        values = [values]
    try:
        # A tensor without dimensions says that it can be iterated over, and cannot.
        given = None if isinstance(values, str | bytes) else list(values)
    except TypeError:
        given = None
    if given is None:
        return [], [f"averages is {values!r}; expected a list of decays or kinds, or one of them"]
    averages: list[Average] = []
    faults: list[str] = []
    try:
        given = given if updates is None else _fitted(given, updates)
    except ConfigError as error:
        return [], [str(error).rstrip(".")]
    for value in given:
        try:
            averages.append(as_average(value))
        except ConfigError as error:
            faults.append(str(error).rstrip("."))
    if not averages and not faults:
        faults.append("averages is empty; expected at least one decay or kind")
    return averages, faults + _name_faults([average.label for average in averages])


def _fitted(values: list[Any], updates: int) -> list[Any]:
    """The same with decays that are plain numbers fitted to a run of so many updates."""
    decays = [float(x) for x in values if _is_decay(x)]
    fitted = iter(fitted_decays(decays, updates=updates))
    return [next(fitted) if _is_decay(x) else x for x in values]


def _is_decay(value: Any) -> bool:
    return is_number(value) and 0.0 <= float(value) < 1.0


def lerp_weights(
    averages: Mapping[str, Average], update: Update, folded: Mapping[str, int]
) -> dict[str, float]:
    """Each average's lerp weight in an update.

    Args:
        averages: By name.
        update: When it takes place.
        folded: By name, the updates before it, as `Average.folded_after` counts them.

    Raises:
        ConfigError: if a kind gives a weight outside [0, 1].
    """
    weights = {}
    for name, kind in averages.items():
        weights[name] = w = kind.weight(update, folded.get(name, 0))
        if not 0.0 <= w <= 1.0:
            raise ConfigError(
                f"the weight of {name!r} at update {update.index} (step {update.step}) is "
                f"{w!r}; expected a number in [0, 1]. Fix its weight()."
            )
    return weights


def _name_faults(labels: list[str]) -> list[str]:
    unnamed = [label for label in labels if not isinstance(label, str)]
    if unnamed:
        return [f"the name is {label!r}; expected text" for label in unnamed]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    faults = [
        f"the name {label!r} is given twice; pass name= to tell them apart" for label in twice
    ]
    # A file of averages separates the average's name from the weight's by a slash.
    slashed = sorted({label for label in labels if "/" in label})
    return faults + [f"the name is {label!r}; expected one without '/'" for label in slashed]
