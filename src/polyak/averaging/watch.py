"""Noticing, at little cost, that a model's tensors are no longer those that were listed."""

from typing import Any

from torch import Tensor, nn

from polyak.averaging.inventory import Inventory


class Watch:
    """An inventory of a model, and whether it still holds.

    Compares every place where a module keeps parameters, buffers and children with what was
    there before, and every tensor's storage, dtype, layout and `requires_grad`. Names are not
    built and nothing is allocated, so it can be asked before every update.
    """

    def __init__(self, model: nn.Module, found: Inventory) -> None:
        self.found = found
        self.modules = list(model.modules())
        self._sizes: list[tuple[dict[str, Any], int]] = []
        self._children: list[tuple[dict[str, Any], str, object]] = []
        self._tensors: list[tuple[dict[str, Any], str, Tensor, int, tuple[object, ...]]] = []
        self._training: list[tuple[Tensor, bool]] = []
        for module in self.modules:
            for places in (module._parameters, module._buffers, module._modules):
                self._sizes.append((places, len(places)))
            self._children += [(module._modules, key, x) for key, x in module._modules.items()]
            for tensors in (module._parameters, module._buffers):
                for key, x in tensors.items():
                    if x is not None:
                        self._tensors.append((tensors, key, x, x.data_ptr(), _layout(x)))
            self._training += [
                (p, p.requires_grad) for p in module._parameters.values() if p is not None
            ]

    def holds(self) -> bool:
        """Whether nothing was added, removed, replaced, moved, cast, frozen or unfrozen."""
        return (
            all(len(places) == size for places, size in self._sizes)
            and all(places.get(key) is child for places, key, child in self._children)
            and all(
                tensors.get(key) is x and x.data_ptr() == address and _layout(x) == layout
                for tensors, key, x, address, layout in self._tensors
            )
            and all(p.requires_grad is trains for p, trains in self._training)
        )


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride()
