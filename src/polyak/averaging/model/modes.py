"""Train and eval mode of a model, module by module, for the length of a block.

A module with a `train` of its own may do more there than set a flag: merge an adapter into a
frozen weight on going to eval mode, or drop what it has computed from its weights on going back.
So its `train` is called on the way out as well as on the way in.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from polyak.averaging.model import memorised, sharded


@contextmanager
def eval_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put a model, given with all its parts, in eval mode; then restore the flag of each."""
    with ExitStack() as undo:
        evaluate(undo, modules)
        yield


def evaluate(undo: ExitStack, modules: Sequence[nn.Module]) -> None:
    """Put a model, given with all its parts, in eval mode; `undo` gets what takes it back.

    Frozen parameters that a `train` of their module may write to are restored bit for bit.
    """
    own = own_train(modules)
    frozen = [m for m in own if m.training]
    _keep(undo, modules, [x for x in _parameters(frozen) if not x.requires_grad])
    undo.callback(_setter(modules))
    if own:
        undo.callback(_trainer(own))
    set_eval(modules)


def set_eval(modules: Sequence[nn.Module]) -> None:
    """Put a model, given with all its parts, in eval mode, in as few calls as possible."""
    for module in modules:
        if type(module).train is not nn.Module.train:
            module.eval()
        elif module.training:
            # Past nn.Module.__setattr__, which looks for parameters first and takes ten times
            # longer; TorchScript's modules keep the flag in C++.
            attributes = vars(module)
            if "training" in attributes:
                attributes["training"] = False
            else:
                module.training = False


def own_train(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Those with a `train` of their own, in the order given."""
    return [module for module in modules if type(module).train is not nn.Module.train]


def renewing(
    undo: ExitStack, modules: Sequence[nn.Module]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """What to call before and after the weights of a model are exchanged for others.

    In eval mode modules may hold something made of the weights. Before, they go to train mode to
    drop it; after, they go back and make it anew of the new weights. `undo` gets what restores
    the parameters that this writes to, bit for bit.
    """
    own = own_train(modules)
    if all(module.training for module in own):
        return _nothing, _nothing
    _keep(undo, modules, _parameters([m for m in own if not m.training]))
    train, flags = _trainer(own), _setter(modules)

    def before() -> None:
        for module in own:
            module.train()
        memorised.forget(modules)

    def after() -> None:
        train()
        flags()

    return before, after


def _nothing() -> None:
    """Of most models no module has a `train` of its own."""


def _setter(modules: Sequence[nn.Module]) -> Callable[[], None]:
    """Sets each module's flag to what it is now, past its `train`."""
    flags = [(vars(module), module.training) for module in modules]
    scripted = [module for module in modules if "training" not in vars(module)]
    script_flags = [(module, module.training) for module in scripted]

    def put() -> None:
        for attributes, training in flags:
            if "training" in attributes:
                attributes["training"] = training
        for module, training in script_flags:
            module.training = training

    return put


def _trainer(own: Sequence[nn.Module]) -> Callable[[], None]:
    """Calls each module's `train` with its flag of now, children after their parents."""
    flags = [(module, module.training) for module in own]

    def train() -> None:
        for module, training in flags:
            module.train(training)

    return train


def _parameters(modules: Sequence[nn.Module]) -> list[Tensor]:
    return [x for module in modules for x in module._parameters.values() if x is not None]


def _keep(undo: ExitStack, modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> None:
    """Let `undo` write to the tensors the values that they have now."""
    # FSDP2 frees the tensors that stand in a module when it gathers others.
    if not tensors or sharded.managed(modules):
        return
    kept = [(x, x.detach().clone()) for x in tensors]

    @torch.no_grad()
    def put() -> None:
        for x, values in kept:
            x.data.copy_(values)

    undo.callback(put)
