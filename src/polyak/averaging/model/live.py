"""A model's weights at this moment, as an update reads them.

They are looked up again when any was replaced, and sent down to the host where averages live there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging import kernels
from polyak.averaging.model import sharded, swap, transfer
from polyak.averaging.model.weights import (
    Buffers,
    Weights,
    copy_infinite,
    refuse_reshaped,
    sort_weights,
)


class LiveWeights:
    """The weights of a model, looked up again when any was replaced.

    Args:
        model: Whose weights, without wrappers.
        buffers: Whether floating-point buffers are averaged or copied.
        device: Where the averages live: "cpu" sends weights on a device down to host memory.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self, model: nn.Module, *, buffers: Buffers, device: torch.device | str | None
    ) -> None:
        self.model = model
        self.buffers: Buffers = buffers
        self._device = device
        self.staging: transfer.Staging | None = None
        sharded.refuse_flat(model.modules())
        sharded.reshard(list(model.modules()))
        layout = sort_weights(model, buffers=buffers)
        copy_infinite(layout)
        self._begin_with(layout)

    def _begin_with(self, layout: Weights) -> None:
        self.layout = layout
        """What is averaged, copied and frozen, with the tensors of when it was last sorted."""
        self._look_at(layout)
        self._renew_staging()

    def _look_at(self, found: Weights) -> None:
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
    def found(self) -> Weights:
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

    def now(self) -> Weights:
        """The model's tensors at this moment.

        Raises:
            WeightMismatchError: if weights appeared, vanished, changed shape or were unfrozen.
        """
        if self._watch.holds():
            return self.found
        sharded.reshard(list(self.model.modules()))
        found = sort_weights(self.model, buffers=self.buffers, like=self.layout)
        self.layout.check_same(found)
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
        known = self.layout
        sharded.reshard(list(self.model.modules()))
        found = sort_weights(self.model, buffers=self.buffers, like=known)
        copy_infinite(found, known=known)
        refuse_reshaped({**known.averaged, **known.copied}, {**found.averaged, **found.copied})
        self._begin_with(found)

    def arrange(self, layout: Weights) -> None:
        """Average and copy from now on what `layout` does, whether or not a parameter trains."""
        sharded.reshard(list(self.model.modules()))
        self._begin_with(sort_weights(self.model, buffers=self.buffers, like=layout))

    @property
    def offloaded(self) -> bool:
        """Whether weights come down to host memory: `send`, `fence`, later `ready`."""
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
        """Make whoever writes to the weights next wait, on the device, until they are down."""
        if self.staging is not None:
            self.staging.fence()

    def sent(self) -> bool:
        """Whether `ready` would return without waiting."""
        return self.staging is None or self.staging.arrived()

    def ready(self) -> None:
        """Look the weights up, or wait until what was sent of them is down."""
        if self.staging is None:
            self.now()
        else:
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


class Watch:
    """The sorted tensors of a model, and whether they are still those.

    Compares every place where a module keeps parameters, buffers and children with what was
    there before, and every tensor's storage, dtype, layout and `requires_grad`. Names are not
    built and hardly anything is allocated, so it can be asked before every update.

    Of parameters that FSDP2 shards, the shards are watched: what stands in their places may be
    unsharded copies, which come and go.
    """

    def __init__(self, model: nn.Module, found: Weights) -> None:
        self.found = found
        self.modules = list(model.modules())
        self._sizes = [(m._parameters, m._buffers, m._modules, _size(m)) for m in self.modules]
        self._children = [
            (module._modules, key, child)
            for module in self.modules
            for key, child in module._modules.items()
        ]
        self._tensors: list[tuple[dict[str, Any], str, Tensor, int, torch.dtype, Any, Any, bool]]
        self._tensors = [
            (places, key, x, x.data_ptr(), x.dtype, x.shape, x.stride(), x.requires_grad)
            for module in self.modules
            for places in (module._parameters, module._buffers)
            for key, x in places.items()
            if x is not None and not sharded.is_sharded(x)
        ]
        exact = not sharded.managed(self.modules)
        self._shards = [
            Shard(places, key, x, exact=exact)
            for module in self.modules
            for places in (module._parameters, module._buffers)
            for key, x in places.items()
            if sharded.is_sharded(x)
        ]

    def holds(self) -> bool:
        """Whether nothing was added, removed, replaced, moved, cast, frozen or unfrozen."""
        # Plain loops: this is most of the host's time in an update, and generators double it.
        for parameters, buffers, modules, size in self._sizes:
            if len(parameters) + len(buffers) + len(modules) != size:
                return False
        for modules, key, child in self._children:
            if modules.get(key) is not child:
                return False
        for places, key, x, address, dtype, shape, stride, trains in self._tensors:
            if (
                places.get(key) is not x
                or x.data_ptr() != address
                or x.dtype is not dtype
                or x.requires_grad is not trains
                or x.shape != shape
                or x.stride() != stride
            ):
                return False
        return all(shard.holds() for shard in self._shards)


class Shard:
    """A DTensor in its place, and whether its shard is still the one that was listed.

    Args:
        places: Where a module keeps its parameters or buffers.
        key: The name there.
        tensor: The DTensor.
        exact: Whether it must stand there at all times.
    """

    def __init__(self, places: dict[str, Any], key: str, tensor: Tensor, *, exact: bool) -> None:
        self._places, self._key, self._tensor, self._exact = places, key, tensor, exact
        self._seen = self._look()

    def holds(self) -> bool:
        """Whether nothing was replaced, moved, cast, frozen or unfrozen."""
        there = self._places.get(self._key)
        if there is not self._tensor and (
            self._exact or there is None or there.shape != self._tensor.shape
        ):
            return False
        return self._look() == self._seen

    def _look(self) -> tuple[Any, ...]:
        x = sharded.local(self._tensor)
        trains = self._tensor.requires_grad
        return (x.data_ptr(), x.dtype, x.device, x.shape, x.stride(), trains)


def _size(module: nn.Module) -> int:
    return len(module._parameters) + len(module._buffers) + len(module._modules)
