"""Numbers about averages that change as a run goes on, for whoever draws curves."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polyak.averaging.kinds import Average
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.kinds.profiles.profile import MeanAge, regular
from polyak.averaging.model import sharded
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.storage.store import Store


class Scalars:
    """The scalars of one bank.

    Args:
        kinds: The averages by name.
        current: The weights that are averaged.
        store: The averages' tensors.
    """

    def __init__(self, kinds: Mapping[str, Average], current: CurrentWeights, store: Store) -> None:
        self._kinds = kinds
        self._current = current
        self._store = store
        self._ages: dict[str, MeanAge] = {}

    def of(self, counters: Counters) -> dict[str, float]:
        """By `<average>/<what>`, and what is the bank's own by its name."""
        found = {}
        moment = counters.next_update()
        for name, kind in self._kinds.items():
            found[f"{name}/decay"] = 1.0 - kind.weight(moment, counters.folded[name])
            age = self._age(name, counters)
            if age is not None:
                found[f"{name}/age"] = age * counters.every
            found[f"{name}/distance"] = self._distance(name)
        return found | {"skipped": float(counters.skipped)}

    def _age(self, name: str, counters: Counters) -> float | None:
        kind = regular(self._kinds[name], counters, folded=counters.folded[name])
        if kind is None:
            return None
        begun, known = counters.begun.get(name, 0), self._ages.get(name)
        if known is None or (known.kind, known.begun) != (kind, begun):
            self._ages[name] = MeanAge(kind, every=counters.every, begun=begun)
        return self._ages[name].after(counters.updates)

    @torch.no_grad()
    def _distance(self, name: str) -> float:
        """‖m − x‖/‖x‖ over all averaged parameters, of all processes that hold shards of them."""
        here, held = self._current.here.averaged, self._store.weights(name)
        mesh = self._current.mesh
        squares = []
        for key, x in self._current.found.averaged.items():
            if isinstance(x, nn.Parameter):
                m = held[key].to(here[key].device)
                pair = torch.stack([_square(m - here[key]), _square(here[key])])
                squares.append(pair / sharded.copies(x, mesh))
        if not squares:
            return 0.0
        first = squares[0].device
        pairs = torch.stack([pair.to(first) for pair in squares])
        apart, size = sharded.total(pairs.sum(dim=0), mesh).tolist()
        return float((apart / size) ** 0.5) if size else 0.0


def _square(x: Tensor) -> Tensor:
    """Σ|x|², in float64."""
    wide = torch.float64 if x.device.type == "cpu" else torch.float32
    x = x.abs() if x.is_complex() else x
    norm: Tensor = torch.linalg.vector_norm(x, dtype=wide)
    return norm.square().double()
