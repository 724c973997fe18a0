"""The live models of one bank: they are built here, and told of what changes."""

from collections.abc import Mapping
from threading import RLock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from polyak.averaging.live.binding import Binding, private_ids
from polyak.averaging.live.hooks import fits
from polyak.averaging.live.shards import gather_in_forward_passes
from polyak.averaging.model import sharded
from polyak.averaging.model.copies import replica
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.model.modes import set_eval
from polyak.averaging.model.weights import Weights
from polyak.averaging.storage.store import Store
from polyak.averaging.updates import Updates


class LiveModels:
    """The live models of one bank.

    Args:
        current: The weights that are averaged.
        store: The averages' tensors.
        updates: What may be open when a model is to be right.
        lock: Held during an update.
    """

    def __init__(
        self, current: CurrentWeights, store: Store, updates: Updates, lock: RLock
    ) -> None:
        self._current = current
        self._store = store
        self._updates = updates
        self._lock = lock
        # A live model that nobody holds any more is forgotten.
        self._bindings: WeakKeyDictionary[nn.Module, Binding] = WeakKeyDictionary()

    @torch.inference_mode(False)
    @torch.no_grad()
    def build(self, name: str, *, owner: object) -> nn.Module:
        """A model that is an average, in eval mode and without gradients."""
        current, model = self._current.check(values=True), self._current.model
        stand_ins = _stand_ins(model, current, self._store.stored(name))
        module = replica(model, current=current, owner=owner, stand_ins=stand_ins, shards=True)
        gather_in_forward_passes(model, module)
        binding = Binding(
            module,
            name,
            current=self._current,
            store=self._store,
            updates=self._updates,
            lock=self._lock,
        )
        self._bindings[module] = binding
        binding.show()
        parts = list(module.modules())
        set_eval(parts)
        # One by one: TorchScript's modules have no requires_grad_().
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return module

    def changed(self) -> None:
        """Tell each that averages have moved, or lie elsewhere; the lock must be held."""
        if not self._bindings:
            return
        if self._store.has_refreshed:
            # Whether refreshed statistics still hold is known once the update is closed.
            self._updates.settle()
        for binding in list(self._bindings.values()):
            binding.changed()


def _stand_ins(
    model: nn.Module, current: Weights, stored: Mapping[str, Tensor]
) -> dict[int, Tensor]:
    """By its id, what a live model has in place of a tensor of the model: its source's memory.

    What cannot lie there is left out, to be copied.
    """
    sources = {**current.frozen, **current.live, **stored}
    own = {**current.frozen, **current.live, **current.stored}
    private = private_ids(list(model.modules()))
    found: dict[int, Tensor] = {}
    for name, x in own.items():
        source, inner = sharded.inner(sources[name]).detach(), sharded.inner(x)
        plain = type(inner) in (nn.Parameter, Tensor) and type(source) is Tensor
        if plain and id(x) not in private and fits(source, inner):
            found[id(x)] = _like(x, source)
        elif sharded.is_sharded(x):
            found[id(x)] = _like(x, torch.empty_like(inner))
    return found


def _like(own: Tensor, shard: Tensor) -> Tensor:
    """A tensor of the kind of the model's own, in the memory of a shard or a whole tensor."""
    value = sharded.whole(shard, own)
    return nn.Parameter(value, requires_grad=False) if isinstance(own, nn.Parameter) else value
