"""What every kind of average answers. A kind of your own is a subclass."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, ClassVar, Self

from polyak.averaging.kinds.profiles.long_runs import Sums
from polyak.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Update:
    """The moment at which an average takes the current weights in."""

    index: int
    """Updates before this one; the first update has 0."""

    step: int
    """Optimizer steps taken so far, at least 1."""

    since: int
    """Optimizer steps since the update before this one, or since the start."""

    def reaches(self, every: int) -> bool:
        """Whether it is the first update at or after a multiple of so many steps.

        Example:
            >>> [Update(t, 2 * t + 2, 2).reaches(4) for t in range(4)]
            [False, True, False, True]
        """
        return self.step // every > (self.step - self.since) // every


def refuse_between(label: str, every: int, *, period: int, what: str) -> None:
    """Refuse an average that needs updates every so many steps in a bank that has none there.

    Raises:
        ConfigError: for a spacing that is no multiple of the bank's period.
    """
    if every % period:
        raise ConfigError(
            f"every of {label!r} is {every}; expected a multiple of the averager's period, "
            f"{period}. {what} are taken at its updates."
        )


class Average(ABC):
    """A kind of average: numbers that say how much of the current weights an update takes in.

        m ← m + w·(x − m)

    Only `label` and `weight` must be given. All else has a default that is right for any schedule
    of lerp weights; a kind that knows more of itself says so. Kinds are frozen dataclasses, so
    that a record of their settings is all of them, and hold no tensors.

    Example:
        >>> @dataclass(frozen=True)
        ... class Latest(Average):
        ...     label = "latest"
        ...
        ...     def weight(self, update, folded):
        ...         return 1.0
        >>> Latest().describe(every=1)
        'lerp weights of Latest'
    """

    has_code: ClassVar[bool] = False
    """Whether a user's function is part of it, which no record holds."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The name in the bank."""

    @abstractmethod
    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight w of the current weights, in [0, 1]; 0 leaves the average as it is.

        Args:
            update: When it takes place.
            folded: Updates before it whose weight was above 0, as `folded_after` counts them.
        """

    def folded_after(self, update: Update, folded: int, w: float) -> int:
        """The count of updates taken in, after one of weight w; a kind may let it begin anew.

        Args:
            update: When it took place.
            folded: The count before it.
            w: Its lerp weight.
        """
        return folded + (w > 0)

    def at_period(self, every: int) -> "Average":
        """The average in a bank that updates every so many optimizer steps.

        Raises:
            ConfigError: if it cannot be kept at this period.
        """
        return self

    @property
    def parts(self) -> tuple[tuple["Average", float], ...]:
        """The averages that it is a sum of, with their shares; () for one that is kept itself."""
        return ()

    def fault_if_kept(self, every: int) -> str | None:
        """Why a bank that updates every so many steps cannot keep it, in words; None if it can."""
        return None

    def doubt(self, steps: int) -> str | None:
        """Why it may not be what it stands for after so many steps, in words; None if it is."""
        return None

    @property
    def snapshots(self) -> int | None:
        """Of how many of the last weights that it took in it is the mean.

        None for an average that needs no more than itself. Where it is a number, copies of those
        weights lie beside the average, and whether `weight` is 0 must depend on the update alone.
        """
        return None

    def snapshot_shares(self, count: int) -> Sequence[float] | None:
        """Shares of so many snapshots, the oldest first; None for their plain mean."""
        return None

    @property
    def depends_on_steps(self) -> bool:
        """Whether lerp weights may depend on the steps at which updates take place.

        False if they follow from the number of updates alone.
        """
        return True

    def regular(self, *, updates: int, folded: int, every: int) -> "Average | None":
        """An average whose lerp weights, at regular updates, are those that this one has had.

        Asked when updates were skipped or additional, so that their steps are not known.

        Args:
            updates: Updates that took place.
            folded: Those that `folded_after` counted.
            every: Optimizer steps per update of the bank.

        Returns:
            None if the weights cannot be known.
        """
        return None if self.depends_on_steps else self

    def ages(self, *, updates: int, every: int, begun: int = 0) -> list[int]:
        """How many updates ago each snapshot of the mean was taken, the newest first; [] without.

        None is from the first `begun` updates, before the average joined its bank.
        """
        taken = (
            age
            for age in range(updates - begun)
            if self.weight(
                Update(updates - 1 - age, (updates - age) * every, every), updates - 1 - age
            )
        )
        return list(islice(taken, self.snapshots or 0))

    def sums(self, *, updates: int, every: int) -> Sums | None:
        """Share of the initial weights after regular updates, mean age in updates, Σ of squares.

        None if that takes going through every update.
        """
        return None

    def steady(self, every: int) -> tuple[int, float] | None:
        """Updates after which the decay d = 1 − w stays the same, and that decay; None if unknown.

        Long runs of such an average can be summed up without going through every update.
        """
        return None

    def warmup_steps(self, every: int) -> int | None:
        """The step up to which a warm-up sets the lerp weights: 0 without one, None without end."""
        return 0

    def likeness(self, *, steps: int, updates: int) -> tuple[str, Hashable]:
        """Why other averages may be equal to this one so far, and what is then the same of them.

        Args:
            steps: The step up to which the updates reach.
            updates: Updates so far.

        Returns:
            Equal values for averages that have had the same lerp weights at every update.
        """
        named = any(field.name == "name" for field in fields(self))  # type: ignore[arg-type]
        nameless: Any = replace(self, name=None) if named else self  # type: ignore[type-var]
        return "one average under several names", nameless

    def describe(self, every: int) -> str:
        """What it is, in words, for `Averager.explain`."""
        return f"lerp weights of {type(self).__name__}"

    def settings(self) -> dict[str, Any]:
        """What a record holds of it, as plain JSON values: the dataclass's fields."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """The average that has these `settings()`."""
        return cls(**settings)
