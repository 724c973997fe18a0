"""Lending other weights to a model for the length of a block.

Nothing of the model is copied: its tensors are made to point at other storage and back.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from polyak.errors import StateError

_owners: WeakKeyDictionary[nn.Module, object] = WeakKeyDictionary()
"""Who has lent weights to which module at this moment, the parts of a model included."""


@contextmanager
def lent(
    model: nn.Module, tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Iterator[None]:
    """Let each of a model's `tensors` hold the value of the same name in `weights`.

    Where dtype and device agree the storage itself is lent, so writing to the model inside the
    block writes to `weights`; pass clones of what may be written to.
    """
    own = {name: tensors[name].data for name in weights}
    buffers = {module: dict(module._buffers) for module in model.modules() if module._buffers}
    try:
        for name, weight in weights.items():
            tensors[name].data = weight.to(own[name])
        yield
    finally:
        for name, data in own.items():
            tensors[name].data = data
        # Undoes `self.seen = self.seen + 1`, with which a forward pass replaces a buffer.
        for module, before in buffers.items():
            module._buffers.update(before)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the whole model in eval mode, then give each module its own flag back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        # eval() walks the whole model, which is most of the cost of a swap.
        if any(training for _, training in flags):
            model.eval()
        yield
    finally:
        # Past nn.Module.__setattr__, which looks for parameters first and takes ten times longer.
        for module, training in flags:
            vars(module)["training"] = training


@contextmanager
def owning(model: nn.Module, owner: object) -> Iterator[None]:
    """Mark the model as holding weights of `owner`; refuse it while another owner's are in it."""
    modules = list(model.modules())
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
