"""What has happened to a bank so far: the counts from which lerp weights follow."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from polyak.averaging.kinds.average import Average, Update


@dataclass(slots=True)
class Counters:
    """Counts of a bank of averages."""

    every: int
    """Optimizer steps per update."""

    steps: int = 0
    """Optimizer steps counted."""

    updates: int = 0
    """Updates that took place."""

    skipped: int = 0
    """Updates that did not, because of weights that were not finite."""

    position: int = 0
    """Where the last update stands on the axis of steps."""

    steps_at_update: int = 0
    """`steps` at the last update."""

    folded: dict[str, int] = field(default_factory=dict)
    """Updates that each average has taken in with a weight above 0, since it began."""

    initial_share: dict[str, float] = field(default_factory=dict)
    """What is left of the initial weights in each average, in [0, 1]."""

    begun: dict[str, int] = field(default_factory=dict)
    """Updates of the bank before an average that joined it later began; others are not in it."""

    @classmethod
    def at_start(cls, names: Collection[str], *, every: int) -> "Counters":
        """The counts of a bank that has yet to begin."""
        return cls(every, folded=dict.fromkeys(names, 0), initial_share=dict.fromkeys(names, 1.0))

    def next_update(self, *, steps: int | None = None) -> Update:
        """When an update after `steps` steps takes place; without new ones it stands for `every`.

        None means the steps counted.
        """
        steps = self.steps if steps is None else steps
        since = steps - self.steps_at_update or self.every
        return Update(index=self.updates, step=self.position + since, since=since)

    def count(
        self,
        moment: Update,
        weights: Mapping[str, float],
        *,
        steps: int,
        kinds: Mapping[str, Average],
    ) -> None:
        """Count an update of these kinds that took place after `steps` steps with these weights."""
        for name, w in weights.items():
            self.folded[name] = kinds[name].folded_after(moment, self.folded.get(name, 0), w)
            self.initial_share[name] = self.initial_share.get(name, 1.0) * (1.0 - w)
        self.updates += 1
        self.position, self.steps_at_update = moment.step, steps

    def record(self) -> dict[str, Any]:
        """The counts as plain JSON values; of a bank that began as one, as ever."""
        found = asdict(self)
        return found if self.begun else {k: x for k, x in found.items() if k != "begun"}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the counts of `record()`."""
        self.begun = {}
        for name in (*self.record(), *(["begun"] if "begun" in record else [])):
            value = record[name]
            setattr(self, name, dict(value) if isinstance(value, Mapping) else value)
