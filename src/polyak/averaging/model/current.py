"""A model's weights at this moment, as an update reads them.

They are looked up again when any was replaced, and sent down to the host where averages live there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from polyak.averaging import kernels
from polyak.averaging.model import sharded, swap, transfer
from polyak.averaging.model.buffers import Buffers, normalised, refuse_unmatched
from polyak.averaging.model.frozen import Frozen, Loads, guarded
from polyak.averaging.model.watch import Watch
from polyak.averaging.model.weights import Weights, copy_infinite, selectable, sort_weights
from polyak.errors import ConfigError, WeightMismatchError, few


class CurrentWeights:
    """The weights of a model, looked up again when any was replaced.

    Args:
        model: Whose weights, without wrappers.
        buffers: What is averaged, copied or read from the model, of buffers by their names.
        device: Where the averages live: "cpu" sends weights on a device down to host memory.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self, model: nn.Module, *, buffers: Buffers, device: torch.device | str | None
    ) -> None:
        self.model = model
        self.buffers: Buffers = normalised(buffers)
        self.admitted: frozenset[str] = frozenset()
        """Names of parameters that are averaged, frozen or not, since an optimizer has them."""
        self._device = device
        self._loads: Loads | None = None
        self.staging: transfer.Staging | None = None
        sharded.refuse_flat(model.modules())
        sharded.reshard(list(model.modules()))
        refuse_unmatched(self.buffers, selectable(model))
        layout = sort_weights(model, buffers=self.buffers)
        copy_infinite(layout)
        if not (layout.averaged or layout.frozen):
            raise ConfigError(
                "the model has nothing to average; expected parameters. Pass the module that "
                "trains, once it has its layers."
            )
        self._begin_with(layout)

    def _begin_with(self, layout: Weights) -> None:
        self.layout = layout
        """What is averaged, copied and frozen, with the tensors of when it was last sorted."""
        self._frozen: Frozen | None = None
        self._look_at(layout)
        self._note()
        self._renew_staging()

    def _note(self) -> None:
        self._frozen = Frozen(guarded(self.model, self.found.frozen))

    def _look_at(self, found: Weights) -> None:
        self._watch = Watch(self.model, found)
        if self._frozen is not None:
            self._frozen.bind(guarded(self.model, found.frozen))
        self.here = found.holding(sharded.local_all({**found.averaged, **found.copied}))
        """The model's tensors, of sharded ones the shards of this process."""
        self.mesh = sharded.mesh_of(found.averaged.values())
        self._on_device = any(x.is_cuda for x in self.here.averaged.values())

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

    def check(self, *, values: bool) -> Weights:
        """`now`, for an update or a reading: what is frozen must not have moved.

        Args:
            values: Whether to compare sampled values also where torch counted no write, since a
                write through `.data` is not counted. Else no value is read unless one was.

        Raises:
            WeightMismatchError: also if a frozen weight has moved.
            ConfigError: if nothing is averaged.
        """
        self.end_loading()
        found = self.now()
        self.refuse_unsound(values=values)
        return found

    def refuse_unsound(self, *, values: bool) -> None:
        """Refuse if nothing is averaged or what is frozen has moved; `values` as in `check`."""
        self.end_loading()
        if not self.layout.averaged:
            raise ConfigError(
                "nothing of the model is averaged, since none of its parameters trains; expected "
                "some that do. Attach the optimizer that has them, call track() after unfreezing, "
                "or build the averager then."
            )
        # Inside a block modules may merge adapters into what is frozen, and take them out again.
        if self.layout.frozen and not swap.holds_lent_weights(self.model):
            self._refuse_moved(values=values)

    def _refuse_moved(self, *, values: bool) -> None:
        assert self._frozen is not None
        if (values or self._frozen.written()) and (moved := self._frozen.moved()):
            raise WeightMismatchError(
                f"{few(moved)} has moved although it does not train; expected it as it was when "
                "the averager was built. Build the averager after loading weights; or call "
                "track() to go on from its values of now, while it trains if it shall be "
                f"averaged; or say what it is: buffers={{{moved[0]!r}: 'live'}}."
            )

    def note_frozen(self) -> None:
        """Note what is frozen anew, as averages go on from another state.

        And again what is loaded into the model until the next step, update or reading, since the
        model may be loaded after its averages.
        """
        self.end_loading()
        self._note()
        self._loads = Loads(self.model, self._renew)

    def _renew(self, name: str, weight: Tensor) -> None:
        if self._frozen is not None:
            self._frozen.renew(self.found.names.get(name, name), weight)

    def end_loading(self) -> None:
        """What is frozen must be from now on as it is."""
        if self._loads is None:
            return
        self._loads.end()
        self._loads = None
        assert self._frozen is not None
        self._frozen.bind(guarded(self.model, self.found.frozen))

    def track(self) -> None:
        """Sort anew: what trains now is averaged, and what was averaged or copied stays so.

        Raises:
            WeightMismatchError: if an averaged weight that stays has another shape.
        """
        known = self.layout
        sharded.reshard(list(self.model.modules()))
        found = sort_weights(self.model, buffers=self.buffers, like=known)
        copy_infinite(found, known=known)
        replace(known, frozen={}).refuse_reshaped(found.averaged)
        self._begin_with(found)

    def admit(self, parameters: Iterable[Tensor]) -> bool:
        """Average these from now on, frozen at any moment or not; says whether one is new.

        Args:
            parameters: Of an optimizer; those that are not the model's are passed over.

        Raises:
            WeightMismatchError: if one was frozen and has moved since, or the model changed.
        """
        given = {id(x) for x in parameters}
        there = {name: x for name, x in self._present().items() if id(x) in given}
        fresh = frozenset(there.keys() & self.layout.frozen.keys())
        if not fresh:
            return False
        layout = with_averaged(self.layout, fresh)
        found = sort_weights(self.model, buffers=self.buffers, like=layout)
        layout.check_same(found)
        if moved := self._moved({**found.frozen, **{n: found.averaged[n] for n in fresh}}):
            raise WeightMismatchError(
                f"{few(moved)} has moved since the averager was built, when it did not train; "
                "expected an optimizer that is attached before its first step. Call track() to "
                "go on from the values of now, or build the averager after loading weights."
            )
        self.admitted |= fresh
        self._begin_with(found)
        return True

    def readmit(self) -> bool:
        """Average again what `admit` was given and a state had as frozen; says whether any is."""
        fresh = self.admitted & self.layout.frozen.keys()
        if fresh:
            self.arrange(with_averaged(self.layout, fresh))
        return bool(fresh)

    def _moved(self, frozen: Mapping[str, Tensor]) -> list[str]:
        assert self._frozen is not None
        self._frozen.bind(guarded(self.model, frozen))
        return self._frozen.moved()

    def _present(self) -> dict[str, Tensor]:
        """The parameters by name, whatever has changed."""
        sharded.reshard(list(self.model.modules()))
        found = sort_weights(self.model, buffers=self.buffers, like=self.layout)
        return {**found.frozen, **found.averaged}

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
        return self.staging is None and self._on_device

    def send(self) -> None:
        """Begin to copy the weights down; `fence` must follow before they are written to."""
        self.check(values=False)
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
            self.check(values=False)
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


def with_averaged(layout: Weights, names: Iterable[str]) -> Weights:
    """A layout that averages some of what it had as frozen."""
    moving = {name: layout.frozen[name] for name in names}
    return replace(
        layout,
        averaged={**layout.averaged, **moving},
        frozen={name: x for name, x in layout.frozen.items() if name not in moving},
    )
