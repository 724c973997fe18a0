"""Which step of several optimizers is the last of a round."""

from collections.abc import Sequence

import torch
from torch import Tensor

from polyak.averaging import kernels
from polyak.averaging.model import sharded
from polyak.averaging.optimizer_hooks.nested import Optimizer, Stepper


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
        members: The optimizers; those that no longer exist are not waited for.
    """

    def __init__(self, members: Sequence[Stepper]) -> None:
        self.members = members
        self._turns: dict[Stepper, int] = {}
        self._stepped: dict[Stepper, None] = {}

    def closed_by(self, stepper: Stepper) -> bool:
        """Whether the step that an optimizer has just taken is a round's last."""
        if len(self.members) == 1:
            return True
        if not self._in_turn(stepper):
            self._stepped.clear()
        self._stepped[stepper] = None
        missing = [x for x in self.members if x not in self._stepped and x.exists]
        if not missing:
            if not self._turns:
                self._turns.update({x: turn for turn, x in enumerate(self._stepped)})
            self._stepped.clear()
            return True
        if not self._turns and any(overflowed(o) for x in missing for o in x.optimizers()):
            self._stepped.clear()
        return False

    def forget(self) -> None:
        """Drop a round that is under way."""
        self._stepped.clear()

    def _in_turn(self, stepper: Stepper) -> bool:
        """Whether an optimizer goes on with the present round."""
        if stepper in self._stepped:
            return False
        turns = [self._turns[x] for x in self._stepped if x in self._turns]
        return not turns or self._turns[stepper] > max(turns)


def overflowed(optimizer: Optimizer) -> bool:
    """Whether gradients of an optimizer hold NaN or infinity, on any process if sharded."""
    parameters = [x for group in optimizer.param_groups for x in group["params"]]
    gradients = [_values(x.grad) for x in parameters if x.grad is not None]
    fine = torch.tensor(kernels.all_finite(gradients), device="cpu")
    return not bool(sharded.unanimous(fine, sharded.mesh_of(parameters)))


def _values(gradient: Tensor) -> Tensor:
    own = sharded.local(gradient)
    return own.coalesce().values() if own.is_sparse else own
