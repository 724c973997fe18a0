"""Which tensors of a module an average stores, which it copies and which it reads live."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from polyak.averaging import kernels
from polyak.averaging.model import places, sharded
from polyak.averaging.model.buffers import Buffers, is_unaveraged, named, treatment
from polyak.errors import StateError, WeightMismatchError, few


@dataclass(frozen=True)
class Weights:
    """The tensors of a module by what an average does with them, each under one name.

    The names are those of `state_dict()`. A tensor that stands under several names (tied
    weights) is listed once, under its first.
    """

    averaged: dict[str, Tensor] = field(default_factory=dict)
    """Parameters that train and, where buffers are averaged, floating-point buffers."""

    copied: dict[str, Tensor] = field(default_factory=dict)
    """Integer and sparse buffers, those of which a mean makes no sense, what is to be copied."""

    frozen: dict[str, Tensor] = field(default_factory=dict)
    """Parameters that do not train: equal to the model's at any time, so never stored."""

    live: dict[str, Tensor] = field(default_factory=dict)
    """What is to be read from the model, whatever happens to it there."""

    shapes: dict[str, torch.Size] = field(default_factory=dict)
    """Of all of these, as they were when this was sorted: a tensor's own may change beneath it."""

    names: dict[str, str] = field(default_factory=dict)
    """Every name of `state_dict()`, in its order, with the name it is listed under."""

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """What is averaged and what is copied."""
        return {**self.averaged, **self.copied}

    @cached_property
    def buffers(self) -> list[str]:
        """Names of the buffers among them."""
        return [name for name, x in self.stored.items() if not isinstance(x, nn.Parameter)]

    @cached_property
    def sparse(self) -> frozenset[str]:
        """Names of the copied ones that are not dense."""
        return frozenset(n for n, x in self.copied.items() if x.layout is not torch.strided)

    @cached_property
    def spread(self) -> dict[str, Tensor]:
        """Those that are spread over processes."""
        return {name: x for name, x in self.stored.items() if sharded.is_sharded(x)}

    def holding(self, tensors: Mapping[str, Tensor]) -> "Weights":
        """The same names of what is averaged and copied, with these tensors."""
        return replace(
            self,
            averaged={key: tensors[key] for key in self.averaged},
            copied={key: tensors[key] for key in self.copied},
        )

    def check_same(self, other: "Weights") -> None:
        """Refuse `other` unless it has the same names and shapes; what is copied may grow."""
        thawed = other.averaged.keys() & self.frozen.keys()
        if thawed:
            raise WeightMismatchError(
                f"{few(thawed)} trains now; expected it frozen, as it was when the averager was "
                "built. Call track() of the averager after unfreezing, before the first step."
            )
        for kind in ("averaged", "copied", "frozen"):
            expected: dict[str, Tensor] = getattr(self, kind)
            got: dict[str, Tensor] = getattr(other, kind)
            if expected.keys() != got.keys():
                raise WeightMismatchError.of_names(set(expected), set(got))
            if kind != "copied":
                self.refuse_reshaped(got)
            spread = {n: sharded.layout(x) != sharded.layout(got[n]) for n, x in expected.items()}
            if moved := [name for name, differs in spread.items() if differs]:
                raise WeightMismatchError(
                    f"{few(moved)} is not spread over processes as the average is; expected the "
                    "same sharding. Shard the model before building the averager, and load "
                    "states of another number of processes by torch.distributed.checkpoint."
                )

    def refuse_reshaped(self, got: Mapping[str, Tensor], *, given: bool = False) -> None:
        """Refuse tensors whose shape is not that of the averaged or frozen one of their name.

        Args:
            got: The model's of now, or if `given`, somebody else's.
            given: Whether the model is right then, and not the other way round.
        """
        known = {**self.averaged, **self.frozen}
        expected = {name: self.shapes.get(name, x.shape) for name, x in known.items()}
        changed = [name for name in expected if name in got and got[name].shape != expected[name]]
        if not changed:
            return
        shown = sorted(changed)[:3]
        buffers = [name for name in shown if not isinstance(known[name], nn.Parameter)]
        remedy = (
            f"Let a buffer that changes its shape be copied: buffers={{{buffers[0]!r}: 'copy'}}."
            if buffers
            else "Build a new averager after changing a model's layers."
        )
        where = "the weights given" if given else "the model"
        whose = "in the model" if given else "in the average"
        remedy = "Pass weights of the same layers." if given else remedy
        raise WeightMismatchError(
            f"the shape of {few(changed)} is {_shown(got[name].shape for name in shown)} in "
            f"{where}; expected {_shown(expected[name] for name in shown)}, as {whose}. {remedy}"
        )


def _shown(shapes: Iterable[torch.Size]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)


def sort_weights(model: nn.Module, *, buffers: Buffers, like: Weights | None = None) -> Weights:
    """Sort the parameters and persistent buffers of `model`.

    Args:
        model: Any module; wrappers of torch.compile and DDP should be taken off before.
        buffers: "average" treats floating-point buffers like parameters (EMAN, Cai et al.
            2021); "copy" takes them over from the model at each update; a mapping says it by
            name, see `treatment`.
        like: An earlier sorting of the model. What it averages or copies stays so, whether or
            not a parameter trains at this moment.
    """
    found = Weights()
    first_name: dict[int, str] = {}
    for name, tensor in _state(model):
        if is_lazy(tensor):
            raise StateError(
                f"{name} has no shape yet; expected weights. Run a batch through the model first."
            )
        if tensor.is_meta:
            raise StateError(
                f"{name} is on the meta device and has no values; expected weights. "
                "Move the model with to_empty() and load or initialise it first."
            )
        listed = first_name.setdefault(id(tensor), name)
        if listed == name:
            _group(found, name, tensor, buffers, like)[name] = tensor
            found.shapes[name] = tensor.shape
        found.names[name] = listed
    return found


def copy_infinite(found: Weights, *, known: Weights | None = None) -> None:
    """Move buffers that hold infinity, such as attention masks, to those that are copied.

    Args:
        found: What is sorted.
        known: An earlier sorting; what it averages stays averaged.
    """
    settled = set() if known is None else known.averaged.keys()
    for name, tensor in list(found.averaged.items()):
        if name in settled or isinstance(tensor, nn.Parameter):
            continue
        if bool(torch.isinf(sharded.local(tensor)).any()):
            found.copied[name] = found.averaged.pop(name)


def extra_states(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what modules put into `state_dict()` by `get_extra_state`, where it is a tensor."""
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            extra = module.get_extra_state()
            if isinstance(extra, Tensor):
                found[f"{path}._extra_state".lstrip(".")] = extra.detach().clone()
    return found


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside the wrappers of torch.compile and data parallelism."""
    inner = getattr(model, "_orig_mod", None)
    if isinstance(inner, nn.Module):
        return unwrap(inner)
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return unwrap(model.module)
    return model


def _group(
    found: Weights, name: str, tensor: Tensor, buffers: Buffers, like: Weights | None
) -> dict[str, Tensor]:
    """Where a weight belongs, all that come before it being sorted."""
    trains = isinstance(tensor, nn.Parameter) and tensor.requires_grad
    if like is not None and name in like.averaged:
        return found.averaged
    if like is not None and name in like.copied and not trains:
        return found.copied
    if trains:
        if tensor.layout is not torch.strided:
            raise StateError(
                f"{name} is a parameter of layout {tensor.layout}; expected a dense one. "
                "Keep it in a module of its own, outside the one that is averaged."
            )
        return found.averaged
    how = named(buffers, name)
    if not isinstance(tensor, nn.Parameter):
        how = treatment(buffers, name)
        mean = kernels.averageable(tensor) and not is_unaveraged(name, found.names)
        how = how if mean or how == "live" else "copy"
    groups = {"average": found.averaged, "copy": found.copied, "live": found.live}
    return found.frozen if how is None else groups[how]


def selectable(model: nn.Module) -> set[str]:
    """Names that `buffers=` can speak of: buffers, filled or not, and frozen parameters."""
    found = set()
    for path, module in model.named_modules(remove_duplicate=False):
        own = {
            key
            for key, _ in places.buffers(module).items()
            if key not in module._non_persistent_buffers_set
        }
        frozen = {
            key
            for key, x in places.parameters(module).items()
            if x is not None and not x.requires_grad
        }
        found |= {f"{path}.{key}".lstrip(".") for key in own | frozen}
    return found


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors as in `state_dict()`, but the tensors themselves, not detached views."""
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, parameter in places.parameters(module).items():
            if parameter is not None:
                yield prefix + name, parameter
        for name, buffer in places.buffers(module).items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield prefix + name, buffer
