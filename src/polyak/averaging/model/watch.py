"""Noticing that a model no longer consists of the tensors that were listed."""

from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.model import places, sharded
from polyak.averaging.model.weights import Weights


class Watch:
    """The sorted tensors of a model, and whether they are still those.

    Compares every place where a module keeps parameters, buffers and children with what was
    there before, and every tensor's storage, dtype, layout and `requires_grad`. Names are not
    built and hardly anything is allocated, so it can be asked before every update.

    Of parameters that FSDP2 shards, the shards are watched: what stands in their places may be
    unsharded copies, which come and go.
    """

    def __init__(self, model: nn.Module, found: Weights) -> None:
        self.found = found
        self.modules = list(model.modules())
        parts = [
            (places.parameters(m), places.buffers(m), places.children(m)) for m in self.modules
        ]
        self._sizes = [(p, b, c, len(p) + len(b) + len(c)) for p, b, c in parts]
        held = [
            (mapping, key, x)
            for parameters, buffers, _ in parts
            for mapping in (parameters, buffers)
            for key, x in mapping.items()
        ]
        dense = [x for x in held if x[2] is not None and x[2].layout is torch.strided]
        # Parts; places in which nothing stands yet; sparse tensors, which have no address.
        self._others = [(c, key, child) for _, _, c in parts for key, child in c.items()]
        self._others += [x for x in held if x[2] is None or x[2].layout is not torch.strided]
        self._tensors: list[tuple[Any, str, Tensor, int, torch.dtype, Any, Any, bool]]
        self._tensors = [
            (mapping, key, x, x.data_ptr(), x.dtype, x.shape, x.stride(), x.requires_grad)
            for mapping, key, x in dense
            if not sharded.is_sharded(x)
        ]
        exact = not sharded.managed(self.modules)
        self._shards = [
            Shard(mapping, key, x, exact=exact)
            for mapping, key, x in dense
            if sharded.is_sharded(x)
        ]

    def holds(self) -> bool:
        """Whether nothing was added, removed, replaced, moved, cast, frozen or unfrozen."""
        # Plain loops: this is most of the host's time in an update, and generators double it.
        for parameters, buffers, modules, size in self._sizes:
            if len(parameters) + len(buffers) + len(modules) != size:
                return False
        for mapping, key, other in self._others:
            if mapping.get(key) is not other:
                return False
        for mapping, key, x, address, dtype, shape, stride, trains in self._tensors:
            if (
                mapping.get(key) is not x
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
