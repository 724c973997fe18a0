"""A model's weights as an update reads them: where they are now, or sent down to the host."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polyak.averaging import kernels
from polyak.averaging.model import sharded, swap, transfer
from polyak.averaging.model.watch import Watch
from polyak.averaging.model.weights import (
    Buffers,
    Inventory,
    copy_infinite,
    inventory,
    refuse_reshaped,
)


class Live:
    """The weights of a model, looked up again when any was replaced.

    Args:
        model: Whose weights, without wrappers.
        buffers: Whether floating-point buffers are averaged or copied.
        device: Where the averages live: "cpu" sends weights on a device down to host memory.
        like: What to average and what to copy; None finds out.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        buffers: Buffers,
        device: torch.device | str | None,
        like: Inventory | None = None,
    ) -> None:
        self.model = model
        self._buffers: Buffers = buffers
        self._device = device
        sharded.refuse_flat(model.modules())
        sharded.reshard(list(model.modules()))
        self.first = inventory(model, buffers=buffers, like=like)
        """What is averaged, copied and frozen, as it was when it was last sorted."""
        if like is None:
            copy_infinite(self.first)
        self._look_at(self.first)
        self.staging: transfer.Staging | None = None
        self._renew_staging()

    def _look_at(self, found: Inventory) -> None:
        self._watch = Watch(self.model, found)
        self.here = found.holding(sharded.local_all({**found.averaged, **found.copied}))
        """The model's tensors, of sharded ones the shards of this process."""
        self.mesh = sharded.mesh_of(found.averaged.values())

    def _renew_staging(self) -> None:
        """Host memory for the weights if averages do not live beside them."""
        weights = {**self.here.averaged, **self.here.copied}
        # A model that has left its device is still copied from: averages lie in host memory.
        needed = self.offloaded or transfer.needed(weights, self._device)
        self.staging = transfer.Staging(weights) if needed else None
        self.source = self.here.holding(self.staging.tensors) if self.staging else self.here
        """What an update reads: the model's tensors or what was sent of them."""

    @property
    def found(self) -> Inventory:
        """The model's tensors as last seen."""
        return self._watch.found

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The model and all its parts."""
        return self._watch.modules

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The averaged parameters of the model."""
        return [x for x in self.found.averaged.values() if isinstance(x, nn.Parameter)]

    def now(self) -> Inventory:
        """The model's tensors at this moment.

        Raises:
            WeightMismatchError: if weights appeared, vanished, changed shape or were unfrozen.
        """
        if self._watch.holds():
            return self.found
        sharded.reshard(list(self.model.modules()))
        found = inventory(self.model, buffers=self._buffers, like=self.first)
        self.first.check_same(found)
        # What is lent goes back to where it was, and then the old watch holds again.
        if not swap.holds_lent_weights(self.model):
            self._look_at(found)
            if self.staging is None:
                self.source = self.here
        return found

    def track(self) -> None:
        """Sort anew: what trains now is averaged, and what was averaged or copied stays so.

        Raises:
            WeightMismatchError: if a weight that stays has another shape.
        """
        known = self.first
        sharded.reshard(list(self.model.modules()))
        found = inventory(self.model, buffers=self._buffers, like=known)
        copy_infinite(found, known=known)
        refuse_reshaped({**known.averaged, **known.copied}, {**found.averaged, **found.copied})
        self.first = found
        self._look_at(found)
        self._renew_staging()

    @property
    def offloaded(self) -> bool:
        """Whether weights come down to host memory: `send`, `fence`, later `wait`."""
        return self.staging is not None

    @property
    def lags(self) -> bool:
        """Whether the host would have to wait for a device to know if weights are finite."""
        return self.staging is None and any(x.is_cuda for x in self.here.averaged.values())

    def send(self) -> None:
        """Begin to copy the weights down; `fence` must follow before they are written to."""
        self.now()
        weights = {**self.here.averaged, **self.here.copied}
        if self.staging is None or not self.staging.fits(weights):
            self._renew_staging()
        assert self.staging is not None
        self.staging.send(weights)

    def fence(self) -> None:
        """Let who writes to the weights next wait, on the device, until they are down."""
        if self.staging is not None:
            self.staging.fence()

    def sent(self) -> bool:
        """Whether `wait` would return at once."""
        return self.staging is None or self.staging.arrived()

    def wait(self) -> None:
        """Let the host wait until what was sent is down."""
        assert self.staging is not None
        self.staging.wait()

    def nonfinite(self, *, sent: bool = False) -> list[str]:
        """Names of the averaged weights that hold NaN or infinity in the model, or as `sent`."""
        self.now()
        averaged = self.source.averaged if sent else self.here.averaged
        return [name for name, x in averaged.items() if not kernels.all_finite([x])]

    def all_agree(self, fine: bool) -> bool:
        """Whether all processes that hold shards say `fine`; of plain weights, this one alone."""
        if self.mesh is None:
            return fine
        votes = torch.tensor(fine, device=self.mesh.device_type)
        return bool(sharded.unanimous(votes, self.mesh))

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shards of averaged or copied tensors as DTensors, spread like the model's."""
        return sharded.whole_all(tensors, {**self.found.averaged, **self.found.copied})
