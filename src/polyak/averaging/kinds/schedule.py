"""An average whose lerp weights are a user's own function."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar

from polyak.averaging.kinds.average import Average, Update
from polyak.errors import ConfigError


@dataclass(frozen=True, init=False)
class Schedule(Average):
    """An average whose lerp weights are the user's own function of the update.

        m ← m + w(update)·(x − m)

    Args:
        weight: Function of an `Update` (index, step, since) that gives w in [0, 1]: 0 leaves the
            average as it is, 1 makes it the current weights. It must depend on the update alone.
        name: How the average is called.

    Raises:
        ConfigError: here for what is no function; at an update for a w outside [0, 1], before
            any average has changed.

    Note:
        Records and `state_dict()` hold the name, not the function: no code is read from files.
        Resuming needs the same function under the same name, and another function under that
        name cannot be noticed. Give a changed one a new name.

    Example:
        >>> mean = Schedule(lambda update: 1 / (update.index + 1), name="mean")
        >>> mean.weight(Update(3, 4, 1), folded=3)
        0.25
    """

    has_code: ClassVar[bool] = True

    function: Callable[[Update], float] = field(repr=False)
    name: str

    def __init__(self, weight: Callable[[Update], float], *, name: str) -> None:
        faults = []
        if not callable(weight):
            faults.append(f"weight is {weight!r}; expected a function of an Update")
        if not isinstance(name, str) or not name:
            faults.append(f"name is {name!r}; expected one, which records hold for the function")
        if faults:
            raise ConfigError.of("Schedule", faults)
        object.__setattr__(self, "function", weight)
        object.__setattr__(self, "name", name)

    @property
    def label(self) -> str:
        """The name in the bank."""
        return self.name

    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight that the function gives, in [0, 1]. `folded` is not used."""
        w = self.function(update)
        if not isinstance(w, Real) or not 0.0 <= float(w) <= 1.0:
            raise ConfigError(
                f"the weight of {self.name!r} at update {update.index} (step {update.step}) is "
                f"{w!r}; expected a number in [0, 1]. Fix the function."
            )
        return float(w)

    def likeness(self, *, steps: int, updates: int) -> tuple[str, Hashable]:
        """Schedules of one function are equal at all times."""
        return "one function", id(self.function)

    def describe(self, every: int) -> str:
        """That it is the user's."""
        return "lerp weights of a function of yours"

    def settings(self) -> dict[str, Any]:
        """The name alone."""
        return {"name": self.name}
