"""The names and tensors of a state dict that another tool wrote, as the model itself has them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polyak.averaging.files.safetensors_file import quote
from polyak.errors import FileError, WeightMismatchError

_COMPILED = "_orig_mod"
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
    return {key: _held(key, x) for key, x in state.items()}


def strip_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes of torch.compile and of data parallelism.

    `_orig_mod` is taken out wherever it stands; `module.` only where every name begins with it,
    as often as it does.

    Raises:
        FileError: if two names would become one.

    Example:
        >>> list(strip_wrappers({"module._orig_mod.a._orig_mod.w": torch.ones(1)}))
        ['a.w']
    """
    names = [".".join(p for p in name.split(".") if p != _COMPILED) for name in state]
    while names and all(name.startswith(_WRAPPED) for name in names):
        names = [name.removeprefix(_WRAPPED) for name in names]
    if len(set(names)) != len(names):
        twice = {name for name in names if names.count(name) > 1}
        raise FileError(
            f"{quote(twice)} stand twice, with and without a wrapper's prefix; expected each "
            "name once. Save the model without its wrapper."
        )
    return dict(zip(names, state.values(), strict=True))


def name_by_order(values: object, model: nn.Module | None) -> dict[str, Tensor] | None:
    """Names for a list of parameters in the order of `model.parameters()`.

    Both ways of making such a list are tried: all parameters, and those that train. Tied
    parameters get all their names. Without a model the names are "0", "1", …

    Raises:
        WeightMismatchError: if neither has the list's shapes.
    """
    if not isinstance(values, list | tuple) or not all(isinstance(x, Tensor) for x in values):
        return None
    tensors = [_held(str(i), x) for i, x in enumerate(values)]
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
    raise WeightMismatchError(
        f"the file holds {len(tensors)} parameters in order, which are not the model's in number "
        f"and shape ({len(list(model.parameters()))} parameters); expected the model that was "
        "averaged. Build it as it was then, with the same layers frozen."
    )


def _held(name: str, tensor: Tensor) -> Tensor:
    """The values of a tensor from a file, on the CPU."""
    if tensor.device.type == "meta" or tensor.layout != torch.strided:
        raise FileError(
            f"{name!r} is a {tensor.layout} tensor on {tensor.device}; expected dense values. "
            "Save the model on a device, and dense."
        )
    return tensor.detach().cpu()
