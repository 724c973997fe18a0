"""Counting the steps of an optimizer that took place."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from polyak.averaging import kernels
from polyak.averaging.model import sharded
from polyak.errors import ConfigError, StateError

Optimizer = torch.optim.Optimizer


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
        optimizers: Sequence[Optimizer],
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

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and len(self.optimizers) > 1:
            if bool(found_inf):
                return
            found_inf = None
        if self._rounds.closed_by(optimizer):
            if found_inf is not None and not isinstance(found_inf, Tensor):
                found_inf = torch.tensor(found_inf, device="cpu")
            self._on_step(found_inf)


def unwrap_unattached(
    optimizers: Sequence[Any], attachments: Sequence[Attachment]
) -> tuple[Optimizer, ...]:
    """The optimizers that call hooks.

    Raises:
        ConfigError: for what is no optimizer, nor a wrapper of one.
        StateError: if one of the attachments has it already.
    """
    attached = {optimizer for known in attachments for optimizer in known.optimizers}
    unwrapped = tuple(map(unwrap_optimizer, optimizers))
    if attached.intersection(unwrapped):
        raise StateError(
            "the optimizer is attached already; expected one that is not, or each step would "
            "count twice. Call remove() of the handle that attach() gave first."
        )
    return unwrapped


def all_written_by(attachments: Sequence[Attachment], parameters: Sequence[Tensor]) -> bool:
    """Whether the attached optimizers together hold all of these parameters."""
    hooked = {id(x) for known in attachments for x in known.parameters()}
    return hooked.issuperset(map(id, parameters))


def unwrap_optimizer(optimizer: Any) -> Optimizer:
    """The optimizer that calls hooks: itself, or the one in a wrapper such as Accelerate's.

    A wrapper that is an optimizer in its own right, with hooks, is taken as it is: when its step is
    over, so is that of the one within.

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
    assert isinstance(found, Optimizer)
    return found


class Rounds:
    """Says after which step a round is over: the one with which every optimizer has stepped.

    The first round that is over tells the order of turns. From then on an optimizer that steps
    before its turn is due begins the next round: one of the present round was left out, by
    GradScaler say, and that round does not count. Without it the end of a round would slip to
    the middle of the training loop's iterations, and stay there.

    Until the order is known, a round does not count either while gradients of an optimizer that
    has yet to step hold NaN or infinity: its step is being left out, and whoever steps now is not
    the first of its round. Those gradients are read in each step till then.

    Args:
        members: The optimizers; those that no longer exist are not waited for. It may shrink.
    """

    def __init__(self, members: Iterable[Optimizer]) -> None:
        self._members = members
        self._turns: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._stepped: WeakKeyDictionary[Optimizer, None] = WeakKeyDictionary()

    def closed_by(self, optimizer: Optimizer) -> bool:
        """Whether the step that an optimizer has just taken is a round's last."""
        if not self._in_turn(optimizer):
            self._stepped.clear()
        self._stepped[optimizer] = None
        missing = [x for x in self._members if x not in self._stepped]
        if not missing:
            if not self._turns:
                self._turns.update({x: turn for turn, x in enumerate(self._stepped)})
            self._stepped.clear()
            return True
        if not self._turns and any(map(overflowed, missing)):
            self._stepped.clear()
        return False

    def _in_turn(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer goes on with the present round."""
        if optimizer in self._stepped:
            return False
        turns = [self._turns[x] for x in self._stepped if x in self._turns]
        return not turns or self._turns[optimizer] > max(turns)


def overflowed(optimizer: Optimizer) -> bool:
    """Whether gradients of an optimizer hold NaN or infinity, on any process if sharded."""
    parameters = [x for group in optimizer.param_groups for x in group["params"]]
    gradients = [_values(x.grad) for x in parameters if x.grad is not None]
    fine = torch.tensor(kernels.all_finite(gradients), device="cpu")
    return not bool(sharded.unanimous(fine, sharded.mesh_of(parameters)))


def _values(gradient: Tensor) -> Tensor:
    own = sharded.local(gradient)
    return own.coalesce().values() if own.is_sparse else own
