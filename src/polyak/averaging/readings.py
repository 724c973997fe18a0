"""Reading a bank: its averages, and what it says about them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from polyak.averaging.counting import Counting
from polyak.averaging.kinds import Average
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.kinds.explain import coinciding, explain
from polyak.averaging.kinds.profile import profile_in_bank
from polyak.averaging.model.buffers import described
from polyak.averaging.model.copies import copy_holding
from polyak.averaging.model.live import LiveWeights
from polyak.averaging.model.swap import lending
from polyak.averaging.notices import Notices
from polyak.averaging.storage.store import Store
from polyak.averaging.updates import Updates
from polyak.errors import ConfigError, unknown


class Readings:
    """What is read of one bank; what is open is closed before.

    Args:
        kinds: The averages by name.
        live: The weights that are averaged.
        store: The averages' tensors.
        updates: The counts.
        counting: What is counted.
        owner: Whose weights a model holds while an average is lent to it.
    """

    def __init__(
        self,
        kinds: Mapping[str, Average],
        live: LiveWeights,
        store: Store,
        updates: Updates,
        counting: Counting,
        *,
        owner: object,
    ) -> None:
        self._kinds = kinds
        self._live = live
        self._store = store
        self._updates = updates
        self._owner = owner
        self._counting = counting
        self.notices = Notices(kinds, live, store, counting.begun)

    @property
    def _counters(self) -> Counters:
        return self._updates.counters

    def named(self, name: str | None) -> str:
        """The name of an average, which may be left out where there is one.

        Raises:
            ConfigError: if there are several.
        """
        if name is None and len(self._kinds) > 1:
            raise ConfigError(
                f"name is None; expected one of {', '.join(self._kinds)}. "
                "It may be left out where there is one average."
            )
        return next(iter(self._kinds)) if name is None else name

    def require(self, name: str) -> Average:
        """The kind of an average.

        Raises:
            ConfigError: if there is none of that name.
        """
        if name not in self._kinds:
            raise ConfigError(unknown("average", name, self._kinds))
        return self._kinds[name]

    def begin(self, name: str) -> None:
        """Say what there is to say before an average is read."""
        self.require(name)
        self._counting.admit_added()
        self.notices.check(name, self._counters)

    def lent(self, name: str, *, evaluating: bool = False) -> AbstractContextManager[None]:
        """A block in which the model holds an average, if `evaluating` in eval mode."""
        live = self._live.check(values=True) if evaluating else self._live.now()
        weights = self._store.weights(name)
        return lending(self._live.modules, live, weights, owner=self._owner, evaluating=evaluating)

    def module(self, name: str | None, *, share_frozen: bool) -> nn.Module:
        """A copy of the model that holds an average."""
        name = self.named(name)
        self.begin(name)
        live = self._live.check(values=True)
        return copy_holding(
            self._live.model,
            self._store.weights(name),
            live=live,
            buffers=self._live.buffers,
            owner=self._owner,
            share_frozen=share_frozen,
        )

    def tensors(
        self, names: Sequence[str], *, copy: Callable[[Tensor], Any]
    ) -> dict[str, dict[str, Any]]:
        """Copies of averages' weights; what they share is one tensor."""
        for name in names:
            self.begin(name)
        return self._store.tensors(names, copy=copy)

    def standstill(self, name: str) -> float:
        """Share of an average's values that the next update would leave as they are."""
        kind, counters = self.require(name), self._counters
        w = kind.weight(counters.next_update(), counters.folded[name])
        return self._store.standstill(name, w)

    def profile(self, name: str | None) -> tuple[float, ...]:
        """Weights of the initial weights and of each update so far in an average."""
        name = self.named(name)
        kind, counters = self.require(name), self._counters
        return profile_in_bank(kind, counters, folded=counters.folded[name])

    def explain(self, *, total_steps: int | None) -> str:
        """The averages in words, and what happens to buffers if that goes by name."""
        counters = self._counters
        self.notices.told |= counters.updates > 0
        said = explain(self._kinds, counters, total_steps=total_steps)
        rules = self._live.buffers
        return said if isinstance(rules, str) else f"{said}\nbuffers: {described(rules)}"

    def coinciding(self) -> list[list[str]]:
        """Groups of averages that are equal so far."""
        self.notices.told = True
        counters = self._counters
        return coinciding(self._kinds, steps=counters.position, updates=counters.updates)
