"""Whether weights that do not train have moved all the same, found out cheaply.

A weight that is frozen is read from the model, so an average would show it as it is now, whatever
has happened to it. Loading the same values again is no movement, nor what rounding leaves when an
adapter is merged into a weight and taken out again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.model import sharded

_SAMPLED = 256
"""Values of a weight, evenly spread, that are compared."""

_SUMMED = 4_194_304
"""Values up to which a weight is summed, too, when a write to it was counted."""


@dataclass(slots=True)
class _Noted:
    """What one weight was: sampled values as float64, and the sum of all of a smaller one."""

    values: Tensor
    sum: Tensor | None
    eps: float = 0.0
    """Unit in the last place, relative, of the coarsest dtype that the weight has had since."""


class Frozen:
    """What frozen weights were when they were noted.

    Args:
        weights: By name.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._noted: dict[str, _Noted] = {}
        self._bound: dict[str, tuple[object, ...]] = {}
        self._groups: list[_Group] = []
        self._weights: dict[str, Tensor] = {}
        self._counted: dict[str, Tensor] = {}
        self.bind(weights)
        self._versions: list[int] | None = self._counts()

    @torch.inference_mode(False)
    @torch.no_grad()
    def bind(self, weights: Mapping[str, Tensor]) -> None:
        """Look at these tensors from now on; a name that is new is noted."""
        local = {name: sharded.local(x).detach() for name, x in weights.items()}
        bound: dict[str, tuple[object, ...]] = {
            n: (id(weights[n]), x.dtype, x.device, _place(x)) for n, x in local.items()
        }
        if bound == self._bound:
            return
        self._bound = bound
        self._weights = {name: x for name, x in local.items() if _readable(x)}
        self._noted = {n: self._noted.get(n) or _note(x) for n, x in self._weights.items()}
        places: dict[tuple[torch.device, torch.dtype], list[str]] = {}
        for name, x in self._weights.items():
            number = x.is_floating_point() or x.is_complex()
            noted = self._noted[name]
            noted.eps = max(noted.eps, torch.finfo(x.dtype).eps if number else 0.0)
            places.setdefault((x.device, x.dtype), []).append(name)
        self._groups = [
            _Group({n: self._weights[n] for n in names}, [self._noted[n] for n in names])
            for names in places.values()
        ]
        self._counted = {n: x for n, x in self._weights.items() if not x.is_inference()}
        # Of a tensor that was put in another's place no earlier count is known.
        self._versions = None

    @torch.inference_mode(False)
    @torch.no_grad()
    def renew(self, name: str, weight: Tensor) -> None:
        """Note a weight anew as it is; `bind` must follow."""
        x = sharded.local(weight).detach()
        if name in self._noted and _readable(x):
            self._noted[name] = _note(x)
            self._bound = {}

    def _counts(self) -> list[int]:
        return [x._version for x in self._counted.values()]

    def written(self) -> bool:
        """Whether a write to one was counted; reads no value and waits for no device."""
        return self._counts() != self._versions

    @torch.no_grad()
    def moved(self) -> list[str]:
        """Names of those whose values are others than when they were noted."""
        counts = self._counts()
        found = [name for group in self._groups for name in group.moved()]
        before = self._versions or [-1] * len(counts)
        for (name, x), now, then in zip(self._counted.items(), counts, before, strict=True):
            if now != then and name not in found and _sum_differs(x, self._noted[name]):
                found.append(name)
        if not found:
            self._versions = counts
        return found


class _Group:
    """Weights of one dtype on one device, compared in a few calls whatever their number."""

    def __init__(self, weights: Mapping[str, Tensor], noted: Sequence[_Noted]) -> None:
        self.names = list(weights)
        self._device = next(iter(weights.values())).device
        self._pieces = [_sampler(x) for x in weights.values()]
        then = [each.values for each in noted]
        device = self._device
        self._then = torch.cat([x.to(device) for x in then])
        sizes = torch.tensor([len(x) for x in then], device=device)
        self._number = torch.arange(len(then), device=device).repeat_interleave(sizes)
        eps = torch.tensor([each.eps for each in noted], dtype=torch.float64, device=device)
        rms = torch.stack([x.square().mean().sqrt().nan_to_num(0, 0, 0) for x in then]).to(device)
        self._one_off = 4 * eps[self._number] * (self._then.abs() + rms[self._number])
        self._all_off = sizes * (eps * rms) ** 2

    def moved(self) -> list[str]:
        """Names of those of which a sampled value is another.

        One by more than a few units in the last place, or all together by more than one.
        """
        # A region on a CPU refuses to join numbers of half precision.
        with torch.autocast(self._device.type, enabled=False):
            now = torch.cat([x if i is None else x[i].flatten() for x, i in self._pieces])
        now = now.to(torch.float64)
        off = (now - self._then).abs()
        same = (off <= self._one_off) | (now == self._then) | (now.isnan() & self._then.isnan())
        # Infinite values that are equal have no difference.
        squares = torch.where(same, off.nan_to_num(0, 0, 0).square(), torch.inf)
        drift = torch.zeros_like(self._all_off).index_add(0, self._number, squares)
        bad = drift > self._all_off
        if not bool(bad.any()):
            return []
        return [name for name, differs in zip(self.names, bad.tolist(), strict=True) if differs]


class Loads:
    """Tells of each of a model's parameters that is loaded into it, from now on.

    Args:
        model: Modules of TorchScript in it take no hooks: what is above them tells of theirs.
        then: Called with the name and the parameter.
    """

    def __init__(self, model: nn.Module, then: Callable[[str, Tensor], None]) -> None:
        self._then: Callable[[str, Tensor], None] | None = then
        self._undo: list[Callable[[], None]] = []
        for path, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hook = partial(self._tell, f"{path}." if path else "")
                self._undo.append(module.register_load_state_dict_post_hook(hook).remove)

    def _tell(self, prefix: str, module: nn.Module, _: object) -> None:
        if self._then is None:
            return
        parts = [(f"{name}.", m) for name, m in module.named_children() if _is_scripted(m)]
        for path, part in [("", module), *parts]:
            for key, x in part.named_parameters(recurse=part is not module):
                self._then(f"{prefix}{path}{key}", x)

    def end(self) -> None:
        """Tell no more."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    def __deepcopy__(self, _: object) -> "Loads":
        return Loads(nn.Module(), _ignore)

    def __reduce__(self) -> Any:
        # A copy of the model has the hooks, which nobody listens to.
        return Loads, (nn.Module(), _ignore)


def _ignore(*_: object) -> None:
    pass


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _note(x: Tensor) -> _Noted:
    view, places = _sampler(x)
    values = view if places is None else view[places]
    whole = _real(x).sum(dtype=torch.float64) if x.numel() <= _SUMMED else None
    return _Noted(values.flatten().to(torch.float64, copy=True), whole)


def _sum_differs(x: Tensor, noted: _Noted) -> bool:
    """Whether the sum of all values is another, for a write that the sample does not hit."""
    if noted.sum is None:
        return False
    now, then = float(_real(x).sum(dtype=torch.float64)), float(noted.sum)
    rms = float(noted.values.square().mean().sqrt())
    return not (abs(now - then) <= 16 * noted.eps * rms * x.numel() ** 0.5 or now != now)


def _sampler(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """A view of values spread evenly over a tensor, or the tensor and their places in it.

    In logical order, so that another memory format does not matter.
    """
    x = _real(x)
    stride = max(1, x.numel() // _SAMPLED)
    if x.is_contiguous():
        return x.view(-1)[::stride], None
    numbers, found = torch.arange(0, x.numel(), stride, device=x.device), []
    for size in reversed(x.shape):
        found.append(numbers % size)
        numbers = numbers // size
    return x, tuple(reversed(found))


def guarded(model: nn.Module, frozen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The frozen weights that nobody may write to.

    A module with a `train` of its own may, on going to eval mode and back: those are left out.
    """
    own: Iterable[nn.Module] = (
        module for module in model.modules() if type(module).train is not nn.Module.train
    )
    written = {id(x) for module in own for x in module._parameters.values()}
    return {name: x for name, x in frozen.items() if id(x) not in written}


def _place(x: Tensor) -> object:
    return (x.data_ptr(), x.shape, x.stride()) if _readable(x) else None


def _readable(x: Tensor) -> bool:
    """Whether a tensor is ordinary memory; others, such as quantised ones, are not looked at."""
    return type(x) is Tensor and x.layout is torch.strided and x.numel() > 0 and not x.is_quantized


def _real(x: Tensor) -> Tensor:
    """Complex numbers as pairs; 8-bit floats, with which torch hardly computes, as their bits."""
    if x.is_floating_point() and x.itemsize == 1:
        return x.view(torch.uint8)
    return torch.view_as_real(x) if x.is_complex() else x
