"""Noticing, at little cost, that a model's tensors are no longer those that were listed."""

from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.model import sharded
from polyak.averaging.model.weights import Inventory


class Watch:
    """An inventory of a model, and whether it still holds.

    Compares every place where a module keeps parameters, buffers and children with what was
    there before, and every tensor's storage, dtype, layout and `requires_grad`. Names are not
    built and hardly anything is allocated, so it can be asked before every update.

    Of parameters that FSDP2 shards, the shards are watched: what stands in their places may be
    unsharded copies, which come and go.
    """

    def __init__(self, model: nn.Module, found: Inventory) -> None:
        self.found = found
        self.modules = list(model.modules())
        self._sizes = [(m._parameters, m._buffers, m._modules, _size(m)) for m in self.modules]
        self._children = [
            (module._modules, key, child)
            for module in self.modules
            for key, child in module._modules.items()
        ]
        self._tensors: list[tuple[dict[str, Any], str, Tensor, int, torch.dtype, Any, Any, bool]]
        self._tensors = [
            (places, key, x, x.data_ptr(), x.dtype, x.shape, x.stride(), x.requires_grad)
            for module in self.modules
            for places in (module._parameters, module._buffers)
            for key, x in places.items()
            if x is not None and not sharded.is_sharded(x)
        ]
        exact = not sharded.managed(self.modules)
        self._shards = [
            Shard(places, key, x, exact=exact)
            for module in self.modules
            for places in (module._parameters, module._buffers)
            for key, x in places.items()
            if sharded.is_sharded(x)
        ]

    def holds(self) -> bool:
        """Whether nothing was added, removed, replaced, moved, cast, frozen or unfrozen."""
        # Plain loops: this is most of the host's time in an update, and generators double it.
        for parameters, buffers, modules, size in self._sizes:
            if len(parameters) + len(buffers) + len(modules) != size:
                return False
        for modules, key, child in self._children:
            if modules.get(key) is not child:
                return False
        for places, key, x, address, dtype, shape, stride, trains in self._tensors:
            if (
                places.get(key) is not x
                or x.data_ptr() != address
                or x.dtype is not dtype
                or x.requires_grad is not trains
                or x.shape != shape
                or x.stride() != stride
            ):
                return False
        return all(shard.holds() for shard in self._shards)


class Shard:
    """A DTensor in its place, and whether its shard is still the one that was listed.

    Args:
        places: Where a module keeps its parameters or buffers.
        key: The name there.
        tensor: The DTensor.
        exact: Whether it must stand there at all times.
    """

    def __init__(self, places: dict[str, Any], key: str, tensor: Tensor, *, exact: bool) -> None:
        self._places, self._key, self._tensor, self._exact = places, key, tensor, exact
        self._seen = self._look()

    def holds(self) -> bool:
        """Whether nothing was replaced, moved, cast, frozen or unfrozen."""
        there = self._places.get(self._key)
        if there is not self._tensor and (
            self._exact or there is None or there.shape != self._tensor.shape
        ):
            return False
        return self._look() == self._seen

    def _look(self) -> tuple[Any, ...]:
        x = sharded.local(self._tensor)
        trains = self._tensor.requires_grad
        return (x.data_ptr(), x.dtype, x.device, x.shape, x.stride(), trains)


def _size(module: nn.Module) -> int:
    return len(module._parameters) + len(module._buffers) + len(module._modules)
