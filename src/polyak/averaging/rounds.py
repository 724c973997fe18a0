"""Rounds: when each of several optimizers has had its turn."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from polyak.averaging import kernels
from polyak.averaging.model import sharded

Optimizer = torch.optim.Optimizer


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
