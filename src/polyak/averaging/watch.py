"""Noticing, at little cost, that a model's tensors are no longer those that were listed."""

from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.inventory import Inventory


class Watch:
    """An inventory of a model, and whether it still holds.

    Compares every place where a module keeps parameters, buffers and children with what was
    there before, and every tensor's storage, dtype, layout and `requires_grad`. Names are not
    built and hardly anything is allocated, so it can be asked before every update.
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
            if x is not None
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
        return True


def _size(module: nn.Module) -> int:
    return len(module._parameters) + len(module._buffers) + len(module._modules)
