"""Counting the steps of an optimizer that took place."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from polyak.averaging.rounds import Rounds
from polyak.errors import ConfigError, StateError


class Attachment:
    """Calls `on_step` after each step of the optimizer, or each round of several; see `Rounds`.

    `before_step` is called before any of them writes, and may refuse by raising.

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
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        before_step: Callable[[], None],
        on_step: Callable[[Tensor | None], None],
    ) -> None:
        if not optimizers:
            raise ConfigError("attach() got no optimizer; expected at least one. Pass it.")
        self._before_step = before_step
        self._on_step = on_step
        self.optimizers = WeakSet(optimizers)
        self._rounds = Rounds(self.optimizers)
        self._hooks = [
            hook
            for optimizer in self.optimizers
            for hook in (
                optimizer.register_step_pre_hook(self._ahead_of_step),
                optimizer.register_step_post_hook(self._after_step),
            )
        ]

    def remove(self) -> None:
        """End the counting. May be called twice."""
        for hook in self._hooks:
            hook.remove()
        self.optimizers.clear()

    def parameters(self) -> Iterator[Tensor]:
        """All that the optimizers write to."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                yield from group["params"]

    def _ahead_of_step(self, *_: Any) -> None:
        self._before_step()

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and len(self.optimizers) > 1:
            if bool(found_inf):
                return
            found_inf = None
        if self._rounds.closed_by(optimizer):
            if found_inf is not None and not isinstance(found_inf, Tensor):
                found_inf = torch.tensor(found_inf, device="cpu")
            self._on_step(found_inf)


def unattached(
    optimizers: Sequence[Any], attachments: Sequence[Attachment]
) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers that call hooks.

    Raises:
        ConfigError: for what is no optimizer, nor a wrapper of one.
        StateError: if one of the attachments has it already.
    """
    attached = {optimizer for known in attachments for optimizer in known.optimizers}
    found = tuple(map(bare, optimizers))
    if attached.intersection(found):
        raise StateError(
            "the optimizer is attached already; expected one that is not, or each step would "
            "count twice. Call remove() of the handle that attach() gave first."
        )
    return found


def all_written_by(attachments: Sequence[Attachment], parameters: Sequence[Tensor]) -> bool:
    """Whether the attached optimizers together hold all of these parameters."""
    hooked = {id(x) for known in attachments for x in known.parameters()}
    return hooked.issuperset(map(id, parameters))


def bare(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that calls hooks: itself, or the one in a wrapper such as Accelerate's.

    A wrapper that is an optimizer by right, with hooks of its own, is taken as it is: when its
    step is over, so is that of the one within.

    Raises:
        ConfigError: for what is neither.
    """
    found = optimizer
    while "_optimizer_step_post_hooks" not in getattr(found, "__dict__", {}):
        inner = getattr(found, "optimizer", None)
        if inner is None or inner is found:
            raise ConfigError(
                f"optimizer is a {type(optimizer).__name__}; expected a torch.optim.Optimizer, "
                "or a wrapper with one as .optimizer. Call step() after each of its steps instead."
            )
        found = inner
    assert isinstance(found, torch.optim.Optimizer)
    return found
