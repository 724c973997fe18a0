"""Copies of a model that hold an average, and of its own weights while others write to it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.model import memorised, places, sharded, swap
from polyak.averaging.model.buffers import Buffers
from polyak.averaging.model.modes import eval_mode, own_train, set_eval
from polyak.averaging.model.weights import Weights, sort_weights
from polyak.errors import StateError


@torch.no_grad()
def copy_holding(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    current: Weights,
    buffers: Buffers,
    owner: object,
    share_frozen: bool = False,
) -> nn.Module:
    """A copy of `model` that holds `weights`, in eval mode and without gradients.

    The model may train in another thread meanwhile.

    Args:
        model: Any module.
        weights: What the copy shall hold, by name.
        current: The model's weights at this moment.
        buffers: As they were sorted by.
        owner: Whose weights these are. It is not copied: where the model has it, the copy has
            None.
        share_frozen: Let frozen parameters of the copy lie in the model's memory.

    Raises:
        StateError: for a sharded model, and while another owner's weights are in it.
    """
    stand_ins = {id(x): _in_same_memory(x) for x in current.frozen.values()} if share_frozen else {}
    copy = replica(model, current=current, owner=owner, stand_ins=stand_ins)
    parts = list(copy.modules())
    for name, x in sort_weights(copy, buffers=buffers, like=current).stored.items():
        # Copies of TorchScript's modules train, whether or not these do.
        if name in current.frozen:
            continue
        weight = weights[current.names[name]]
        value = weight.detach().to(device=x.device, dtype=x.dtype, copy=True)
        if x.layout is torch.strided:
            x.data = value
        else:
            places.replace_buffer(parts, x, value)
    memorised.forget(parts)
    set_eval(parts)
    # One by one: TorchScript's modules have no requires_grad_().
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    return copy


def replica(
    model: nn.Module,
    *,
    current: Weights,
    owner: object,
    stand_ins: Mapping[int, Tensor],
    shards: bool = False,
) -> nn.Module:
    """A copy of `model`, modules with a `train` of their own in train mode.

    Args:
        model: Any module.
        current: Its weights at this moment.
        owner: Whose weights the copy is to hold; it is not copied.
        stand_ins: What the copy has in place of tensors of the model, by their ids.
        shards: Whether it may be a model that FSDP2 has sharded, of which the copy is not.

    Raises:
        StateError: for a sharded model, and while another owner's weights are in it.
    """
    spread = [
        x for x in (*current.stored.values(), *current.frozen.values()) if sharded.is_sharded(x)
    ]
    if spread and not shards:
        raise StateError(
            "module() was called of a model that is spread over processes; expected one that is "
            "whole. Use applied(name), live(name), or polyak.gathered and load its state dict."
        )
    if spread and not sharded.managed([model]):
        raise StateError(
            "live() was called of a model that is spread over processes otherwise than by FSDP2; "
            "expected fully_shard of the whole model, or a model that is whole. Use applied(name)."
        )
    sharded.reshard(list(model.modules()), spread)
    swap.refuse_others(list(model.modules()), owner)
    # Held until the copy is made, for an id is another object's once its own is gone.
    computed = list(_computed(vars(module) for module in model.modules()))
    # torch makes no copy of compressed sparse ones by itself, either.
    computed += [x for x in model.buffers() if x.layout is not torch.strided]
    memo: dict[int, Any] = {id(x): x.detach().clone() for x in computed}
    copy = sharded.plain_copy(model, {**memo, **stand_ins, id(owner): None})
    # What they have made of the model's weights goes, for it to be made anew of these.
    for part in own_train(list(copy.modules())):
        if not part.training:
            part.train()
    return copy


@contextmanager
def restored(model: nn.Module, *, frozen: Iterable[Tensor]) -> Iterator[None]:
    """Undo at the end what the block does to a model: its weights, its buffers, every train flag.

    Inside, the model is in eval mode.

    Args:
        model: Any module.
        frozen: Its weights that are not copied, but put back into their places: whoever reads
            them notices if they have moved.
    """
    spared = {id(x) for x in frozen}
    modules = list(model.modules())
    sharded.reshard(modules)
    kept_in = [p for m in modules for p in (places.parameters(m), places.buffers(m)) if len(p)]
    stood = [(mapping, dict(mapping.items())) for mapping in kept_in]
    tensors = {id(x): x for _, before in stood for x in before.values() if x is not None}
    written = [x for key, x in tensors.items() if key not in spared]
    kept = [(x, sharded.local(x).detach().clone()) for x in written]
    with eval_mode(modules):
        try:
            yield
        finally:
            sharded.reshard(modules)
            for mapping, before in stood:
                mapping.update(before)
            for x, values in kept:
                sharded.local(x).data.copy_(values)
            memorised.forget(modules)


def _in_same_memory(frozen: Tensor) -> Tensor:
    # One of another type has more than its values, such as the scales of quantised ones.
    plain = type(frozen) is nn.Parameter
    return nn.Parameter(frozen.detach(), requires_grad=False) if plain else frozen


def _computed(places: Iterable[object]) -> Iterator[Tensor]:
    """The tensors in nested containers that belong to a graph, of which torch makes no copy.

    A forward pass leaves them behind: a weight under `torch.nn.utils.weight_norm`, say.
    """
    seen: set[int] = set()
    rest = list(places)
    while rest:
        place = rest.pop()
        if isinstance(place, Tensor):
            if not place.is_leaf:
                yield place
        elif isinstance(place, dict | list | tuple) and id(place) not in seen:
            seen.add(id(place))
            rest.extend(place.values() if isinstance(place, dict) else place)
