"""Watching optimizers, and calling an averager after each step that took place."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from polyak.averaging.optimizer_hooks.nested import Optimizer, Stepper
from polyak.averaging.optimizer_hooks.rounds import Rounds


class Attachment:
    """Calls `on_step` after each step of the optimizer, or each round of several; see `Rounds`.

    `before_step` is called before any of them writes, and may refuse by raising.

    Of optimizers that step others, each step counts once, whichever calls it is made of; see
    `Stepper`. Where torch does not call an outer one's hooks, its `step` is watched instead, and
    counts if one within has stepped meanwhile: Accelerate's wrapper often steps nothing.

    A fused optimizer is called by GradScaler also when it will skip the step because gradients
    overflowed, which only the device knows; the scaler then leaves a positive `found_inf` on it,
    which is passed on unread. An averager reads it when it has arrived. Where an update may be
    due it waits for the steps before, so the host is at most one step ahead there; never for this
    one, whose update has a lerp weight that the device makes 0 if it was skipped, at one launch
    for each tensor and average. Whether all of several optimizers have stepped must be known at
    once, so there it is read.
    """

    def __init__(
        self,
        steppers: Sequence[Stepper],
        *,
        before_step: Callable[[], None],
        on_step: Callable[[Tensor | None], None],
    ) -> None:
        self._before_step = before_step
        self._on_step = on_step
        self.begun = False
        """Whether any of the optimizers has begun to step."""
        self._steppers = [x for root in steppers for x in root.steppers()]
        self._rounds: dict[Stepper | None, Rounds] = {None: Rounds(steppers)}
        self._rounds |= {x: Rounds(x.within) for x in self._steppers if x.within}
        self._undo: list[Callable[[], None]] = []
        for stepper in self._steppers:
            self._watch(stepper)

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers and wrappers that are watched and still exist."""
        return [x for stepper in self._steppers if (x := stepper.optimizer) is not None]

    @property
    def writes_between_steps(self) -> bool:
        """Whether one may write to weights outside of any `step`: SAM does, to look around."""
        return any(x.has_hooks and x.within for x in self._steppers)

    @property
    def size(self) -> int:
        """How many parameters the optimizers hold, which `add_param_group` lets grow."""
        # A plain loop, as this is asked before every step.
        count = 0
        for stepper in self._steppers:
            for group in getattr(stepper.optimizer, "param_groups", ()):
                count += len(group["params"])
        return count

    def remove(self) -> None:
        """End the counting. May be called twice."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._steppers.clear()

    def parameters(self) -> Iterator[Tensor]:
        """All that the optimizers write to."""
        for optimizer in self.optimizers:
            for group in getattr(optimizer, "param_groups", ()):
                yield from group["params"]

    def _watch(self, stepper: Stepper) -> None:
        optimizer = stepper.optimizer
        if not stepper.has_hooks:
            self._watch_calls(stepper)
            return

        def ahead(*_: Any) -> None:
            self._before_step()
            self.begun = True
            stepper.begin(sys._getframe(1))

        def after(optimizer: Optimizer, *_: Any) -> None:
            found_inf = _found_inf(optimizer)
            if stepper.end(sys._getframe(1), found_inf):
                self._after_step(stepper, found_inf)

        # What `torch.compiler.disable` would do; that takes seconds to import.
        for hook in (ahead, after):
            vars(hook)["_torchdynamo_disable"] = True
        self._undo += [
            optimizer.register_step_pre_hook(ahead).remove,
            optimizer.register_step_post_hook(after).remove,
        ]

    def _watch_calls(self, stepper: Stepper) -> None:
        optimizer = stepper.optimizer
        if not hasattr(optimizer, "__dict__") or not hasattr(type(optimizer), "step"):
            return

        def around(step: Callable[..., Any], arguments: Any, keywords: Any) -> Any:
            self._before_step()
            self.begun = True
            frame = sys._getframe()
            stepper.begin(frame)
            result = step(*arguments, **keywords)
            if stepper.end(frame, None) and (stepper.steps_within or not stepper.within):
                known = {id(x): x for x in stepper.steps_within if x is not None}
                if len(known) < 2 or not any(map(bool, known.values())):
                    self._after_step(stepper, known.popitem()[1] if len(known) == 1 else None)
            return result

        self._undo.append(_WatchedStep(optimizer, around).remove)

    def _after_step(self, taken: Stepper, found_inf: Tensor | None) -> None:
        if taken.within:
            # Of those within it some may have stepped on their own before.
            self._rounds[taken].forget()
        stepper: Stepper | None = taken
        while stepper is not None:
            rounds = self._rounds[stepper.outer]
            if found_inf is not None and sum(x.exists for x in rounds.members) > 1:
                if bool(found_inf):
                    return
                found_inf = None
            if not rounds.closed_by(stepper):
                return
            stepper = stepper.outer
        self._on_step(found_inf)


class _WatchedStep:
    """Stands in for the `step` of an optimizer whose hooks torch does not call.

    Args:
        optimizer: Whose; not kept alive.
        around: Called with that `step`, its arguments and its keywords.
    """

    def __init__(
        self, optimizer: Any, around: Callable[[Callable[..., Any], Any, Any], Any]
    ) -> None:
        self._optimizer: Callable[[], Any] = ref(optimizer)
        self._own = vars(optimizer).get("step")
        self._around: Callable[[Callable[..., Any], Any, Any], Any] | None = around
        vars(optimizer)["step"] = self

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self._around is None:
            return self._step(*arguments, **keywords)
        return self._around(self._step, arguments, keywords)

    def __get__(self, *_: Any) -> "_WatchedStep":
        # A scheduler that is built later binds what it finds.
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def __reduce__(self) -> Any:
        # A copy of the optimizer has the step of its class: nobody watches it.
        return getattr, (self._optimizer(), "step")

    @property
    def _step(self) -> Callable[..., Any]:
        optimizer = self._optimizer()
        found: Callable[..., Any] = self._own or type(optimizer).step.__get__(optimizer)
        return found

    def remove(self) -> None:
        """Give the optimizer its own back, or pass on from now on if somebody wraps this."""
        self._around = None
        optimizer = self._optimizer()
        if optimizer is None or vars(optimizer).get("step") is not self:
            return
        if self._own is None:
            del vars(optimizer)["step"]
        else:
            vars(optimizer)["step"] = self._own


def _found_inf(optimizer: Optimizer) -> Tensor | None:
    """What GradScaler has left on an optimizer: not zero if the step is skipped on the device."""
    found = getattr(optimizer, "found_inf", None)
    if found is None or isinstance(found, Tensor):
        return found
    return torch.tensor(found, device="cpu")
