"""Optimizers that step others: what is within one, and which of the nested calls is a step.

SAM and Lookahead are optimizers that hold another one. Some call it in their own `step`, some in
a method of another name, so that their `step` never runs; some are optimizers whose hooks torch
calls, some are not. Each optimizer and each wrapper is a `Stepper`, and of calls within each
other the outermost counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from polyak.errors import ConfigError

Optimizer = torch.optim.Optimizer


class Stepper:
    """An optimizer or a wrapper of some, and those within it.

    It has stepped when a call of its own `step` is over, or once those within it have each
    stepped outside of such a call.

    Args:
        optimizer: Not kept alive.
        within: Those that it holds.
    """

    def __init__(self, optimizer: Any, within: Sequence["Stepper"]) -> None:
        self.outer: Stepper | None = None
        self.within = within
        for stepper in within:
            stepper.outer = self
        self.has_hooks = _has_hooks(optimizer)
        """Whether torch calls the hooks of its `step`."""
        self._optimizer = _reference(optimizer)
        self._call: FrameType | None = None
        self.steps_within: list[Tensor | None] = []
        """The `found_inf` of each step within the call of `step` that is under way."""

    @property
    def optimizer(self) -> Any:
        """The optimizer; None once it is gone."""
        return self._optimizer() if self._optimizer else None

    @property
    def exists(self) -> bool:
        """Whether anything of it can still step."""
        return self.optimizer is not None or any(x.exists for x in self.within)

    def steppers(self) -> Iterator["Stepper"]:
        """It and all within it."""
        yield self
        for stepper in self.within:
            yield from stepper.steppers()

    def optimizers(self) -> Iterator[Optimizer]:
        """The optimizers among them that still exist."""
        for stepper in self.steppers():
            if isinstance(found := stepper.optimizer, Optimizer):
                yield found

    def parameters(self) -> Iterator[Tensor]:
        """All that they write to."""
        for optimizer in self.optimizers():
            yield from _parameters(optimizer)

    def begin(self, frame: FrameType) -> None:
        """A call of its `step` begins, which runs in `frame`."""
        if (self._call is None and self.outer is None) or self._around(frame) is None:
            self._call = frame
            self.steps_within.clear()

    def end(self, frame: FrameType, found_inf: Tensor | None) -> bool:
        """That call is over. Whether it was a step, and not a part of another one's."""
        if self._call is frame:
            self._call = None
            return True
        around = self._around(frame)
        if around is not None and around is not self:
            around.steps_within.append(found_inf)
        return False

    def _around(self, frame: FrameType) -> "Stepper | None":
        """Whose step is under way that the call in `frame` is a part of."""
        stepper: Stepper | None = self
        while stepper is not None:
            if stepper._call is not None:
                if _is_within(frame, stepper._call):
                    return stepper
                stepper._call = None  # It raised, and so its end was not told.
            stepper = stepper.outer
        return None


def find_steppers(optimizers: Sequence[Any]) -> list[Stepper]:
    """For each the tree of what steps when it steps.

    Those that are within another one, or given twice, are left out.

    Raises:
        ConfigError: for what is no optimizer, nor a wrapper of one.
    """
    found = [_find_root(optimizer) for optimizer in optimizers]
    inner = {id(x.optimizer) for root in found for x in root.steppers() if x is not root}
    roots: dict[int, Stepper] = {}
    for optimizer, root in zip(optimizers, found, strict=True):
        if id(optimizer) not in inner:
            roots.setdefault(id(optimizer), root)
    return list(roots.values())


def parameters_of(optimizer: Any) -> Iterator[Tensor]:
    """All that an optimizer and those within it write to."""
    yield from _find_root(optimizer).parameters()


def _find_root(optimizer: Any) -> Stepper:
    found = _find(optimizer, set())
    if found is None:
        raise ConfigError(
            f"optimizer is a {type(optimizer).__name__}; expected a torch.optim.Optimizer, "
            "or a wrapper with one as .optimizer. Call step() after each of its steps instead."
        )
    return found


def _find(optimizer: Any, seen: set[int]) -> Stepper | None:
    seen.add(id(optimizer))
    within: list[Stepper] = []
    for x in _within(optimizer):
        if id(x) not in seen and (stepper := _find(x, seen)):
            within.append(stepper)
    if not (within or isinstance(optimizer, Optimizer)):
        return None
    return Stepper(optimizer, within)


def _within(optimizer: Any) -> Iterator[Any]:
    """What an optimizer or a wrapper holds that steps, in whatever attribute or list."""
    places = dict(getattr(optimizer, "__dict__", {}))
    if not isinstance(optimizer, Optimizer):
        for name in _NAMES:
            places.setdefault(name, getattr(optimizer, name, None))
    for x in (x for place in places.values() for x in _items(place)):
        if isinstance(x, Optimizer):
            if not _is_stranger(x, optimizer):
                yield x
        elif _is_wrapper(x):
            yield x


def _is_stranger(x: Optimizer, holder: Any) -> bool:
    """Whether an optimizer trains nothing of its holder's, which then only knows of it."""
    own = set(map(id, _parameters(holder))) if isinstance(holder, Optimizer) else set()
    return bool(own) and own.isdisjoint(map(id, _parameters(x)))


_NAMES = ("optimizer", "base_optimizer", "optimizers")
"""Where wrappers have what they wrap as a property, or pass on what they are asked for."""


def _items(place: Any) -> Iterator[Any]:
    if isinstance(place, list | tuple | set):
        yield from place
    elif isinstance(place, Mapping):
        yield from place.values()
    else:
        yield place


def _is_wrapper(x: Any) -> bool:
    """Whether this is no optimizer, but may step one."""
    known = isinstance(x, Optimizer | LRScheduler | torch.nn.Module | type)
    return not known and callable(getattr(x, "step", None))


def _parameters(optimizer: Any) -> Iterator[Tensor]:
    for group in getattr(optimizer, "param_groups", ()):
        yield from group["params"]


def _has_hooks(optimizer: Any) -> bool:
    """Whether torch has made its `step` one that calls hooks: when it built the optimizer."""
    hooked = getattr(getattr(type(optimizer), "step", None), "hooked", False)
    return bool(hooked) and "_optimizer_step_post_hooks" in getattr(optimizer, "__dict__", {})


def _reference(x: Any) -> "ref[Any] | None":
    try:
        return ref(x)
    except TypeError:  # It has slots, and no place for one.
        return None


def _is_within(frame: FrameType, call: FrameType) -> bool:
    """Whether `frame` was called, over however many others, by `call`; itself included."""
    found: FrameType | None = frame
    while found is not None and found is not call:
        found = found.f_back
    return found is not None
