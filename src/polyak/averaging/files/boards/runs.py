"""Runs of which averages can be made: in files, or in a bank that is still there."""

from collections.abc import Sequence
from typing import Protocol

from polyak.averaging.averager import Averager
from polyak.averaging.files.averages import SavedWeights
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.mixtures.checkpoints import refuse_far
from polyak.averaging.files.mixtures.nearest import nearest_mixture
from polyak.averaging.files.mixtures.stored import averages_in
from polyak.averaging.files.mixtures.synthesize import synthesize_stored
from polyak.averaging.kinds import Average
from polyak.averaging.kinds.profiles.profile import profile
from polyak.averaging.kinds.records import from_record, is_whole, to_record
from polyak.errors import ConfigError

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


class RunInFiles:
    """What can be made of files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._stored = stored = [s for path in files for s in averages_in(path)]
        if not stored:
            raise ConfigError("files hold no averages; expected at least one. Name more files.")
        self.every: int = stored[0].manifest["every"]
        self.moments = sorted({s.manifest["steps"] for s in stored if s.manifest["steps"]})
        latest = [s for s in stored if s.manifest["steps"] == max(self.moments, default=0)]
        if not latest or latest[0].updates < FEWEST_UPDATES:
            raise ConfigError(
                f"files reach to fewer than {FEWEST_UPDATES} updates; expected a run to choose "
                "from."
            )
        self.kept = min(latest, key=lambda s: _squares(s.profile)).kind

    def make(self, kind: Average, steps: int, largest_error: float) -> tuple[SavedWeights, float]:
        found = synthesize_stored(self._stored, kind, steps=steps, largest_error=largest_error)
        return found, found.manifest["synthesis"]["error"]


class RunInBank:
    """What can be made of a bank now."""

    def __init__(self, averager: Averager) -> None:
        self._bank, self.every = averager, averager.every
        if averager.updates < FEWEST_UPDATES:
            raise ConfigError(
                f"the averager has made {averager.updates} updates; expected at least "
                f"{FEWEST_UPDATES}."
            )
        self._profiles = {name: averager.profile(name) for name in averager.names}
        self.moments = [averager.updates * averager.every]
        records = averager.state_dict()["averages"]
        kinds = {name: from_record(x) for name, x in records.items() if is_whole(x)}
        if not kinds:
            raise ConfigError(
                "the averager keeps averages with code of yours alone; expected one of polyak's "
                "kinds beside them."
            )
        self.kept = kinds[min(kinds, key=lambda name: _squares(self._profiles[name]))]

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


def _squares(profile: Sequence[float]) -> float:
    return sum(share * share for share in profile)
