"""Noticing that a model no longer consists of the tensors that were listed."""

from itertools import chain
from operator import attrgetter, is_
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
        self._columns = _Columns.of([mapping for part in parts for mapping in part])
        exact = not sharded.managed(self.modules)
        self._shards = [
            Shard(mapping, key, x, exact=exact)
            for mapping, key, x in dense
            if sharded.is_sharded(x)
        ]

    def holds(self) -> bool:
        """Whether nothing was added, removed, replaced, moved, cast, frozen or unfrozen."""
        if self._columns is not None:
            return self._columns.hold()
        return self._each_holds()

    def _each_holds(self) -> bool:
        """The same place by place, for whatever stands there."""
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


_END = object()
_SHAPE_DTYPE_TRAINS = attrgetter("shape", "dtype", "requires_grad")


class _Columns:
    """What stands in plain dicts, as lists that are compared without a line of Python for each.

    This is most of the host's time in an update.

    Args:
        places: Where modules keep tensors and parts.
        tensors: All tensors in them.
    """

    def __init__(self, places: list[dict[str, Any]], tensors: list[Tensor]) -> None:
        self._empty = [x for x in places if not x]
        self._filled = [x for x in places if x]
        # The end is compared as well, so that neither side may go on where the other has ended.
        self._held = [x for place in self._filled for x in place.values()] + [_END]
        self._tensors = tensors
        self._addresses = [*map(Tensor.data_ptr, tensors)]
        self._strides = [*map(Tensor.stride, tensors)]
        self._others = [*map(_SHAPE_DTYPE_TRAINS, tensors)]

    @classmethod
    def of(cls, places: list[Any]) -> "_Columns | None":
        """None if any is no dict, or holds a tensor of another kind than torch's own."""
        if not all(isinstance(place, dict) for place in places):
            return None
        tensors = [x for place in places for x in place.values() if isinstance(x, Tensor)]
        if not all(type(x) in _PLAIN and x.layout is torch.strided for x in tensors):
            return None
        return cls(places, tensors)

    def hold(self) -> bool:
        """Whether all is as it was."""
        now = chain(chain.from_iterable(map(_values, self._filled)), (_END,))
        return (
            not any(self._empty)
            and all(map(is_, now, self._held))
            and [*map(Tensor.data_ptr, self._tensors)] == self._addresses
            and [*map(Tensor.stride, self._tensors)] == self._strides
            and [*map(_SHAPE_DTYPE_TRAINS, self._tensors)] == self._others
        )


_values = dict[str, Any].values
_PLAIN = (Tensor, nn.Parameter)


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
