"""The names and tensors of a state dict that another tool wrote, as the model itself has them."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from polyak.errors import FileError, WeightMismatchError, quote

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch.compile, FSDP and activation checkpointing put between the parts of a name."""

_WRAPPED = "module."


def tensors_of(value: object) -> dict[str, Tensor] | None:
    """A state dict's tensors, detached; None unless all its values are tensors.

    `_extra_state`, which modules fill as they like, is left out.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return None
    state = {key: x for key, x in value.items() if not key.endswith("_extra_state")}
    if not state or not all(isinstance(x, Tensor) for x in state.values()):
        return None
    return {key: held(key, x) for key, x in state.items()}


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes of torch.compile and the like, wherever they stand.

    Raises:
        FileError: if two names would become one.
    """
    return _renamed(state, [".".join(p for p in k.split(".") if p not in _WRAPPERS) for k in state])


def strip_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes of torch.compile, FSDP and data parallelism.

    `_orig_mod` and the like are taken out wherever they stand; `module.` only where every name
    begins with it, as often as it does.

    Raises:
        FileError: if two names would become one.

    Example:
        >>> list(strip_wrappers({"module._orig_mod.a._orig_mod.w": torch.ones(1)}))
        ['a.w']
    """
    found = unwrapped(state)
    while found and all(name.startswith(_WRAPPED) for name in found):
        found = {name.removeprefix(_WRAPPED): x for name, x in found.items()}
    return found


def _renamed(state: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    if len(set(names)) != len(names):
        twice = {name for name in names if names.count(name) > 1}
        raise FileError(
            f"{quote(twice)} stand twice, with and without a wrapper's prefix; expected each "
            "name once. Save the model without its wrapper."
        )
    return dict(zip(names, state.values(), strict=True))


def fitted(
    state: Mapping[str, Tensor], names: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The part of a state dict that has a model's names after one prefix, and the rest.

    A state dict that has them already, or has them nowhere or in several places, is left whole.

    Args:
        state: Tensors by name.
        names: The names of the model's parameters.
    """
    first = max(names, key=len, default="")
    prefixes = [key.removesuffix(first) for key in state if first and key.endswith(f".{first}")]
    found = [p for p in prefixes if all(p + name in state for name in names)]
    if set(names) <= state.keys() or len(found) != 1:
        return dict(state), {}
    inside = {k.removeprefix(found[0]): x for k, x in state.items() if k.startswith(found[0])}
    return inside, {k: x for k, x in state.items() if not k.startswith(found[0])}


def whole(value: object) -> int | None:
    """A whole number, also one in a tensor; None for anything else."""
    if isinstance(value, Tensor):
        plain = value.numel() == 1 and not value.is_floating_point() and not value.is_complex()
        value = int(value) if plain and value.device.type == "cpu" else None
    return int(value) if isinstance(value, int) else None


def name_by_order(values: object, model: nn.Module | None) -> dict[str, Tensor] | None:
    """Names for a list of parameters in the order of `model.parameters()`.

    All ways of making such a list are tried: all parameters, those that train, and all values of
    `state_dict()`. Tied parameters get all their names. Without a model they are "0", "1", …

    Raises:
        WeightMismatchError: if none has the list's shapes.
    """
    if not isinstance(values, list | tuple) or not all(isinstance(x, Tensor) for x in values):
        return None
    tensors = [held(str(i), x) for i, x in enumerate(values)]
    if model is None:
        return {str(i): x for i, x in enumerate(tensors)}
    shapes = [x.shape for x in tensors]
    for chosen in (
        list(model.parameters()),
        [parameter for parameter in model.parameters() if parameter.requires_grad],
    ):
        if [parameter.shape for parameter in chosen] == shapes:
            places = {id(parameter): i for i, parameter in enumerate(chosen)}
            every = model.named_parameters(remove_duplicate=False)
            return strip_wrappers({k: tensors[places[id(p)]] for k, p in every if id(p) in places})
    full = {key: x for key, x in model.state_dict().items() if isinstance(x, Tensor)}
    if [x.shape for x in full.values()] == shapes:
        return strip_wrappers(dict(zip(full, tensors, strict=True)))
    raise WeightMismatchError(
        f"the file holds {len(tensors)} parameters in order, which are not the model's in number "
        f"and shape ({len(list(model.parameters()))} parameters); expected the model that was "
        "averaged. Build it as it was then, with the same layers frozen."
    )


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor has values, all of them stored."""
    return tensor.device.type != "meta" and tensor.layout == torch.strided


def held(name: str, tensor: Tensor) -> Tensor:
    """The values of a tensor from a file, on the CPU.

    Raises:
        FileError: if it is not dense.
    """
    if not is_dense(tensor):
        raise FileError(
            f"{name!r} is a {tensor.layout} tensor on {tensor.device}; expected dense values. "
            "Save the model on a device, and dense."
        )
    return tensor.detach().cpu()
