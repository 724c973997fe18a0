"""Weights that are spread over processes as DTensors: by FSDP2, tensor parallelism or both.

An average is linear, so every process averages the shards it holds and nothing is sent. Inside
this package shards are plain tensors; they become DTensors again where they leave it. FSDP2 lets
a module hold other, unsharded parameters from a forward pass on, at its root even after it, but
the truth stays in the sharded ones.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from math import prod
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from polyak.averaging.model import memorised
from polyak.errors import ConfigError, StateError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: object) -> "TypeGuard[DTensor]":
    """Whether a tensor is a DTensor."""
    # Loading the module takes a second or more; before someone has, there are no DTensors.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The shard that this process holds, in the same memory; a plain tensor as it is."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local().detach()


def inner(tensor: Tensor) -> Tensor:
    """The tensor itself in which a DTensor keeps its shard; a plain tensor as it is."""
    return tensor._local_tensor if is_sharded(tensor) else tensor


def local_all(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shards of a mapping."""
    return {name: local(x) for name, x in tensors.items()}


def whole(shard: Tensor, like: Tensor) -> Tensor:
    """A shard as a DTensor that is spread as `like` is, in the same memory; plain if that is.

    Shapes are told, not asked of the other processes: those of uneven shards cannot be guessed.
    """
    if not is_sharded(like):
        return shard
    cls: type[DTensor] = sys.modules["torch.distributed.tensor"].DTensor
    on_mesh = shard.device.type == like.device_mesh.device_type
    made = cls.from_local(
        shard if on_mesh else torch.empty_like(shard, device="meta"),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
    assert isinstance(made, Tensor)
    # Made from values it would have moved them to the mesh's kind of device.
    return made if on_mesh else cls(shard, made._spec, requires_grad=False)


def whole_all(shards: Mapping[str, Tensor], likes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shards of a mapping as DTensors, where the weights of their names are.

    Snapshots are called `<number>/<name>`.
    """
    found = {name: likes.get(name, likes.get(name.partition("/")[2])) for name in shards}
    return {
        name: x if (like := found[name]) is None else whole(x, like) for name, x in shards.items()
    }


def gather(tensor: "DTensor", dtype: torch.dtype | None) -> Tensor:
    """All values of a DTensor, cast before they are sent; every process must call it."""
    cast: Any = tensor if dtype is None else tensor.to(dtype)
    whole: Tensor = cast.full_tensor()
    return whole


def layout(tensor: Tensor) -> tuple[Any, ...] | None:
    """Equal for tensors that are spread alike; None for plain tensors."""
    if not is_sharded(tensor):
        return None
    return (tensor.placements, tuple(tensor.device_mesh.shape), local(tensor).shape)


def managed(modules: Iterable[nn.Module]) -> list[Any]:
    """The modules that `fully_shard` was applied to."""
    module = sys.modules.get("torch.distributed.fsdp")
    return [] if module is None else [m for m in modules if isinstance(m, module.FSDPModule)]


def precision(module: Any) -> Any:
    """The mixed precision with which `fully_shard` was applied to a module."""
    return sys.modules["torch.distributed.fsdp"].fully_shard.state(module)._mp_policy


def plain_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy in which no module is under `fully_shard`, which refuses copies of its own.

    Args:
        model: Any module; its parameters must be in their places, see `reshard`.
        memo: As `deepcopy` has it.
    """
    own = managed(model.modules())
    # What FSDP2 hangs on modules refers to all that it knows.
    for module in model.modules() if own else ():
        for hooks in [x for name, x in vars(module).items() if name.endswith("_hooks")]:
            kept = {key: hook for key, hook in hooks.items() if not _is_fsdps(hook)}
            memo.setdefault(id(hooks), OrderedDict(kept))
    shells: dict[int, nn.Module] = {
        id(module): object.__new__(_plain_class(type(module))) for module in own
    }
    memo |= shells
    for module in own:
        places = {k: x for k, x in vars(module).items() if not _is_fsdps_place(k)}
        vars(shells[id(module)]).update(deepcopy(places, memo))
    return deepcopy(model, memo)


def _plain_class(cls: type) -> type:
    """The class of a module before `fully_shard` put one of its own before it."""
    fsdp = sys.modules["torch.distributed.fsdp"].FSDPModule
    return next(x for x in cls.__mro__[1:] if not issubclass(x, fsdp))


def _is_fsdps(hook: Any) -> bool:
    hook = getattr(hook, "hook", hook)
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp")


def _is_fsdps_place(name: Any) -> bool:
    return str(name).startswith(("__composable_api", "_is_fsdp", "_fsdp"))


def refuse_flat(modules: Iterable[nn.Module]) -> None:
    """Refuse FSDP1, whose parameters are pieces of flat ones that have no names of their own."""
    module = sys.modules.get("torch.distributed.fsdp")
    if module and any(isinstance(m, module.FullyShardedDataParallel) for m in modules):
        raise ConfigError(
            "the model is wrapped in FullyShardedDataParallel; expected fully_shard (FSDP2), DDP "
            "or no wrapper. Shard it with torch.distributed.fsdp.fully_shard."
        )


def reshard(modules: Sequence[nn.Module], tensors: Iterable[Tensor] = ()) -> None:
    """Make modules hold their sharded parameters again, and forget unsharded copies of them.

    Sends nothing. The next forward pass gathers anew, from what the shards then hold.

    Args:
        modules: A model and all its parts.
        tensors: Sharded parameters that must then be in their places.
    """
    for module in managed(modules):
        module.reshard()
    held = {id(x) for module in modules for x in module._parameters.values()}
    if any(isinstance(x, nn.Parameter) and id(x) not in held for x in tensors):
        # After a forward pass that raised, reshard() leaves the root as it is, but the hooks
        # that FSDP2 hangs on state_dict() do not.
        modules[0].state_dict()


def lend(
    undo: ExitStack,
    modules: Sequence[nn.Module],
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> None:
    """Let each of a model's DTensors hold the shard of the same name in `weights`.

    The values are written into the shards' own memory, because FSDP2 reads that and not the
    parameters' storage pointers; the model's own shards are kept until they are undone.
    """
    if not tensors:
        return
    reshard(modules, tensors.values())
    own = {name: local(x).clone() for name, x in tensors.items()}
    put_back = memorised.set_aside(modules)

    def give_back() -> None:
        # Else the next forward pass would run on an unsharded copy of the average.
        reshard(modules, tensors.values())
        _write(tensors, own)
        put_back()

    undo.callback(give_back)
    _write(tensors, weights)


def mesh_of(tensors: Iterable[Tensor]) -> "DeviceMesh | None":
    """The mesh that has all processes of all DTensors among `tensors`; None without any.

    Raises:
        StateError: if no mesh of theirs has the processes of all others.
    """
    meshes = list({x.device_mesh: None for x in tensors if is_sharded(x)})
    if not meshes:
        return None
    largest = max(meshes, key=lambda mesh: mesh.size())
    everywhere = set(largest.mesh.flatten().tolist())
    if any(not everywhere.issuperset(mesh.mesh.flatten().tolist()) for mesh in meshes):
        raise StateError(
            "the model's DTensors are spread over meshes of which none has all processes; "
            "expected one that has. Keep an averager for each part of the model."
        )
    return largest


def unanimous(vote: Tensor, mesh: "DeviceMesh | None") -> Tensor:
    """Whether all processes of a mesh vote true: one all-reduce of one number per dimension.

    The host does not wait for a device here.

    Args:
        vote: This process's, a 0-dim bool.
        mesh: None for a process on its own.
    """
    if mesh is None:
        return vote
    votes = vote.to(mesh.device_type, torch.int32)
    # Dimension after dimension reaches every process of the mesh.
    for group in mesh.get_all_groups():
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MIN, group=group)
    return votes.to(vote.device, torch.bool)


def copies(tensor: Tensor, mesh: "DeviceMesh | None") -> int:
    """How many processes of a mesh hold the same values of a tensor."""
    if mesh is None:
        return 1
    if not is_sharded(tensor):
        return mesh.size()
    own = tensor.device_mesh
    parts = prod(own.size(i) for i, placed in enumerate(tensor.placements) if placed.is_shard())
    return mesh.size() // parts


def total(numbers: Tensor, mesh: "DeviceMesh | None") -> Tensor:
    """Sums over all processes of a mesh; None for a process on its own."""
    if mesh is None:
        return numbers
    sums = numbers.to(mesh.device_type, copy=True)
    for group in mesh.get_all_groups():
        torch.distributed.all_reduce(sums, group=group)
    return sums


def _write(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    # `.data` has a version of its own: a graph that saved these tensors finds them unchanged.
    shards = [local(x).data for x in tensors.values()]
    torch._foreach_copy_(shards, [values[name] for name in tensors])
