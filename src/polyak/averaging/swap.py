"""Lending other weights to a model for the length of a block.

Nothing of the model is copied: its tensors are made to point at other storage and back.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from polyak.errors import StateError

_owners: WeakKeyDictionary[nn.Module, object] = WeakKeyDictionary()
"""Who has lent weights to which module at this moment, the parts of a model included."""


@contextmanager
def lent(
    modules: Sequence[nn.Module], tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Iterator[None]:
    """Let each of a model's `tensors` hold the value of the same name in `weights`.

    Where dtype and device agree the storage itself is lent, so writing to the model inside the
    block writes to `weights`; pass clones of what may be written to.

    Args:
        modules: The model and all its parts.
        tensors: Its parameters and buffers by name.
        weights: What they shall hold.
    """
    own = {name: tensors[name].data for name in weights}
    buffers = [(module._buffers, dict(module._buffers)) for module in modules if module._buffers]
    try:
        for name, weight in weights.items():
            data = own[name]
            same = weight.dtype is data.dtype and weight.device == data.device
            tensors[name].data = weight if same else weight.to(data)
        yield
    finally:
        for name, data in own.items():
            tensors[name].data = data
        # Undoes `self.seen = self.seen + 1`, with which a forward pass replaces a buffer.
        for places, before in buffers:
            places.update(before)


@contextmanager
def eval_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put a model, given with all its parts, in eval mode; then give each its own flag back."""
    flags = [(vars(module), module.training) for module in modules]
    try:
        # Past nn.Module.__setattr__, which looks for parameters first and takes ten times longer.
        for module, (attributes, training) in zip(modules, flags, strict=True):
            if type(module).train is not nn.Module.train:
                module.eval()
            elif training:
                attributes["training"] = False
        yield
    finally:
        for attributes, training in flags:
            attributes["training"] = training


@contextmanager
def owning(modules: Sequence[nn.Module], owner: object) -> Iterator[None]:
    """Mark modules as holding weights of `owner`; refuse it while another owner's are in them."""
    marked = [module for module in modules if module not in _owners] if _owners else modules
    if _owners and any(_owners.get(module, owner) is not owner for module in modules):
        raise StateError(
            "another averager's weights are in the model; expected the model's own. "
            "Leave that averager's `applied` block first."
        )
    for module in marked:
        _owners[module] = owner
    try:
        yield
    finally:
        for module in marked:
            del _owners[module]


def holds_lent_weights(model: nn.Module) -> bool:
    """Whether the model, or a part of it, holds an average instead of its own weights."""
    return bool(_owners) and any(module in _owners for module in model.modules())
