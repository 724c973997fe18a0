"""Runs of which averages can be made."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from polyak.averaging.kinds import Average
from polyak.averaging.kinds.profiles.profile import profile
from polyak.averaging.kinds.records import is_whole, to_record
from polyak.averaging.nearest import nearest_mixture, refuse_far
from polyak.averaging.readings import ReadableAverages
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import ConfigError

K = TypeVar("K")

FEWEST_UPDATES = 8
"""Of a run that can be chosen from."""


class Run(Protocol):
    """Of what a board is made."""

    every: int
    moments: list[int]
    """Optimizer steps at which averages can be had, rising."""

    kept: Average
    """That with which all are compared."""

    def make(self, kind: Average, steps: int, largest_error: float) -> tuple[SavedWeights, float]:
        """An average under its name, with its expected error; ConfigError if there is none."""


class RunInBank:
    """What can be made of a bank now.

    Args:
        bank: Whose averages.
        kinds: What they are, by name.
    """

    def __init__(self, bank: ReadableAverages, kinds: Mapping[str, Average]) -> None:
        self._bank, self.every = bank, bank.every
        if bank.updates < FEWEST_UPDATES:
            raise ConfigError(
                f"the averager has made {bank.updates} updates; expected at least {FEWEST_UPDATES}."
            )
        self._profiles = {name: bank.profile(name) for name in kinds}
        self.moments = [bank.updates * bank.every]
        whole = {name: kind for name, kind in kinds.items() if is_whole(to_record(kind))}
        if not whole:
            raise ConfigError(
                "the averager keeps averages with code of yours alone; expected one of polyak's "
                "kinds beside them."
            )
        self.kept = whole[widest({name: self._profiles[name] for name in whole})]

    def make(self, kind: Average, steps: int, largest_error: float) -> tuple[SavedWeights, float]:
        wanted = profile(kind, updates=self._bank.updates, every=self.every)
        mixture = nearest_mixture(wanted, list(self._profiles.values()), rounding=1e-4)
        refuse_far(kind, mixture.error, largest_error, steps=steps)
        shares = dict(zip(self._profiles, mixture.shares, strict=True))
        state = self._bank.combine(shares, statistics="current")
        about = {
            "tool": "polyak",
            "averages": {kind.label: to_record(kind)},
            "synthesis": {
                "error": mixture.error,
                "of": [["averager", name, share] for name, share in shares.items()],
            },
        }
        return SavedWeights({kind.label: state}, manifest=about), mixture.error


def widest(profiles: Mapping[K, Sequence[float]]) -> K:
    """Which average has the least noise, by its shares."""
    return min(profiles, key=lambda key: sum(share * share for share in profiles[key]))
