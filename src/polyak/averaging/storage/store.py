"""What is stored of a model's weights for each average."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyak.averaging import kernels
from polyak.averaging.model import sharded
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.model.spectral import spectral_layers, vectors_of
from polyak.averaging.model.weights import extra_states
from polyak.averaging.storage.bank import Bank
from polyak.averaging.storage.snapshots import SnapshotShares
from polyak.averaging.storage.state_dict import (
    check_weights,
    dtype_names,
    match_layout,
    stored_dtypes,
    without_averaged_vectors,
)
from polyak.errors import StateError


class Store:
    """Averaged tensors, copied ones and refreshed statistics; what is frozen is the model's.

    Args:
        current: The weights to average.
        names: The averages' names.
        snapshots: Of those that are means of their last snapshots, how many each keeps.
        shares: Of these, the share of each of so many snapshots, oldest first; None if equal.
        dtype: Of the averages; None keeps the weights', with float32 for narrow ones.
        device: Where the averages live; None means beside the weights.
    """

    # Stored tensors must stay writable, so no inference tensors, wherever this is called.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self,
        current: CurrentWeights,
        names: Sequence[str],
        *,
        snapshots: Mapping[str, int],
        shares: Mapping[str, SnapshotShares],
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        self._current = current
        self._names = tuple(names)
        self._snapshots, self._shares = snapshots, shares
        self._dtype = dtype
        self._device = device
        self._refreshed: dict[str, dict[str, Tensor]] = {}
        self._torn = False
        self._allocate()

    def _allocate(self) -> None:
        here, device = self._current.here, self._device
        dtypes = stored_dtypes(here.averaged, self._dtype)
        self._bank = Bank(
            self._names,
            here.averaged,
            dtypes=dtypes,
            device=device,
            snapshots=self._snapshots,
            shares=self._shares,
        )
        self._copied = {key: self._copy(x) for key, x in here.copied.items()}
        self._spectral = spectral_layers(self._current.model)
        self._iterated: dict[str, dict[str, Tensor]] = {}
        self._bind()

    def _copy(self, x: Tensor) -> Tensor:
        # Written to later: an inference tensor could not be, outside inference mode.
        with torch.inference_mode(False):
            return x.detach().to(self._device or x.device, copy=True)

    def _bind(self) -> None:
        """Read from now on what the model consists of; what is copied may have grown."""
        self._bank.bind(self._current.source.averaged)
        current = {key: x.detach() for key, x in self._current.source.copied.items()}
        self._renewed = [
            key
            for key, held in self._copied.items()
            if held.layout is not torch.strided or held.shape != current[key].shape
        ]
        same = [key for key in self._copied if key not in self._renewed]
        self._held = [self._copied[key] for key in same]
        self._to_copy = [current[key] for key in same]

    @torch.inference_mode(False)
    @torch.no_grad()
    def track(self) -> None:
        """Average from now on also what trains now and did not, and buffers that are new.

        What was averaged or copied and is still there stays so, with its values.

        Raises:
            WeightMismatchError: if a weight that stays has another shape.
        """
        self._current.track()
        self._grow()

    @torch.inference_mode(False)
    @torch.no_grad()
    def admit(self, parameters: Iterable[Tensor]) -> None:
        """Average these parameters of an optimizer from now on, frozen at any moment or not.

        Raises:
            WeightMismatchError: if one was frozen and has moved since.
        """
        if self._current.admit(parameters):
            self._grow()

    def _grow(self) -> None:
        """Allocate anew for what is to be averaged and copied now, with the values so far."""
        bank, copied = self._bank, self._copied
        self._allocate()
        # A parameter that was frozen is its own average so far.
        self._bank.take_over(bank, self._current.here.averaged)
        self._copied |= {key: x for key, x in copied.items() if key in self._copied}
        self._bind()
        stored = self._bank.dtypes.keys() | self._copied.keys()
        self._refreshed = {
            name: {key: x for key, x in row.items() if key in stored}
            for name, row in self._refreshed.items()
        }

    @property
    def rows(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Per average its averaged tensors by key, as they are stored."""
        return self._bank.rows

    def gather(self) -> None:
        """Take the current weights in, or what was sent of them once it is down."""
        self._current.ready()
        if self._bank.bound is not self._current.source.averaged:
            self._bind()
        self._bank.gather()

    def finite(self) -> bool:
        """Whether all that was gathered is finite, here."""
        return self._bank.finite()

    def finite_flag(self) -> Tensor:
        """Whether it is on all processes, as a 0-dim bool on the device."""
        return sharded.unanimous(self._bank.finite_flag(), self._current.mesh)

    def fold(self, lerp_weights: Mapping[str, float], *, keep: Tensor | None = None) -> None:
        """Move every average by its lerp weight towards what was gathered.

        Args:
            lerp_weights: By average; that of snapshots may be above 0 only without `keep`.
            keep: 0-dim bool on a device: whether to move at all; None moves.
        """
        # Whatever can fail for lack of memory or another shape comes before the first write.
        self._iterated.clear()
        to_copy, renewed = self._to_copy, self._renewed
        if keep is not None:
            pairs = zip(to_copy, self._held, strict=True)
            to_copy = [torch.where(keep.to(m.device), x.to(m.device), m) for x, m in pairs]
            # Another shape cannot be chosen on a device.
            renewed = renewed if renewed and bool(keep) else []
        # Sparse ones exchange their values within, so they are looked up now.
        fresh = {key: self._copy(self._current.source.copied[key]) for key in renewed}
        self._bank.wrote = False
        try:
            self._bank.fold(lerp_weights, keep=keep)
            if self._held:
                torch._foreach_copy_(self._held, to_copy)
        except BaseException as error:
            # An interruption may come within a call, after it has written.
            self._torn = self._bank.wrote or not isinstance(error, Exception)
            raise
        if fresh:
            self._copied |= fresh
            self._bind()

    def refuse_torn(self) -> None:
        """Refuse to go on with averages that an update left half moved.

        Raises:
            StateError: then; loading a state mends them.
        """
        if self._torn:
            raise StateError(
                "an update of the averages was stopped half way, so that some weights have moved "
                "and others have not; expected whole averages. Load the last state by "
                "load_state_dict(), or build the averager anew."
            )

    def adopt(self, averages: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Let averages have these values, shards of sharded ones; the rest stays as it is."""
        for name, values in averages.items():
            for key, x in values.items():
                self._bank.put(name, key, x)
        self._current.note_frozen()
        self.drop_refreshed()

    def stored(self, name: str) -> dict[str, Tensor]:
        """The tensors themselves that are stored for an average, refreshed ones in their place."""
        return {**self._bank.rows[name], **self._copied, **self._refreshed.get(name, {})}

    @property
    def computes(self) -> bool:
        """Whether averages hold what is computed of them after each update."""
        return bool(self._spectral)

    @property
    def has_refreshed(self) -> bool:
        """Whether some average has refreshed statistics until the next update."""
        return bool(self._refreshed)

    def begin_anew(self, names: Iterable[str]) -> None:
        """Let averages be the model's weights of now, as at the start."""
        for name in names:
            for key, x in self._current.here.averaged.items():
                self._bank.put(name, key, x.detach())

    def weights(self, name: str) -> dict[str, Tensor]:
        """All that is stored here for an average, refreshed statistics in their place.

        What a bfloat16 average lacks to float32 is added, unless the model is bfloat16 itself:
        then the stored tensor is what it can hold, and can be lent without a copy.
        """
        self.refuse_torn()
        rows, current = self._bank.rows[name], self._current.here.averaged
        whole = {
            key: kernels.join(rows[key], low)
            for key, low in self._bank.remainder[name].items()
            if current[key].dtype != rows[key].dtype
        }
        stored = {**rows, **whole, **self._copied, **self._refreshed.get(name, {})}
        return {**stored, **self._vectors(name, stored)} if self._spectral else stored

    def _vectors(self, name: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Spectral norm's vectors of an average, computed once an update."""
        if name not in self._iterated:
            spread = self._current.found.spread
            averaged = {k: stored[k] for k in self._bank.rows[name] if k not in spread}
            self._iterated[name] = vectors_of(self._spectral, averaged, self._copied)
        return self._iterated[name]

    def refresh(self, statistics: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Lay BatchNorm statistics over the averaged ones of each average named."""
        for name, fresh in statistics.items():
            held = self.weights(name)
            if fresh:
                self._refreshed[name] = {k: x.to(held[k], copy=True) for k, x in fresh.items()}

    def drop_refreshed(self) -> None:
        """Go back to the averaged statistics."""
        self._refreshed.clear()
        self._iterated.clear()

    def tensors(
        self, names: Sequence[str], *, copy: Callable[[Tensor], Any]
    ) -> dict[str, dict[str, Any]]:
        """Copies of averages' weights under all names of the model's `state_dict()`.

        What averages share is copied once: what is frozen, read live or copied, and extra states,
        which are the model's own; one that is no tensor is left out.
        """
        current = self._current.check(values=True)
        shared = {**current.frozen, **current.live, **self._current.whole(self._copied)}
        common = {key: copy(x.detach()) for key, x in shared.items()}
        extra = {key: copy(x) for key, x in extra_states(self._current.model).items()}
        found = {}
        for name in names:
            own = {k: x for k, x in self.weights(name).items() if x is not self._copied.get(k)}
            held = common | {k: copy(x.detach()) for k, x in self._current.whole(own).items()}
            found[name] = {key: held[listed] for key, listed in current.names.items()} | extra
        return found

    def combined(
        self, shares: Mapping[str, float], *, current: float, own: bool
    ) -> dict[str, Tensor]:
        """Σ_k c_k·m_k under all names of the model's `state_dict()`; sums are float64.

        Args:
            shares: c, by average.
            current: c of the model's weights of now.
            own: Whether BatchNorm statistics are the model's own of now instead of sums.
        """
        found = self._current.check(values=True)
        here, rows = self._current.here.averaged, self._bank.rows
        like = {key: x.dtype for key, x in self.weights(self._names[0]).items()}
        total: dict[str, Tensor] = {}
        for key in rows[self._names[0]]:
            x = here[key].detach().to(rows[self._names[0]][key].device)
            if own and kernels.is_statistic(key):
                total[key] = x.to(like[key], copy=True)
                continue
            sum_ = current * x.to(torch.promote_types(x.dtype, torch.float64))
            for name, share in shares.items():
                sum_ += share * self._whole(name, key).to(sum_.dtype)
            total[key] = sum_.to(like[key])
        spread = self._current.found.spread
        dense = {key: x for key, x in total.items() if key not in spread}
        made = {**self._copied, **total, **vectors_of(self._spectral, dense, self._copied)}
        whole = {**found.frozen, **found.live, **self._current.whole(made)}
        extra = {key: x.clone() for key, x in extra_states(self._current.model).items()}
        once = {key: x.detach().clone() for key, x in whole.items()}
        return {key: once[listed] for key, listed in found.names.items()} | extra

    def _whole(self, name: str, key: str) -> Tensor:
        """An averaged tensor with what it lacks to float32."""
        low = self._bank.remainder[name].get(key)
        stored = self._bank.rows[name][key]
        return stored if low is None else kernels.join(stored, low)

    def standstill(self, name: str, lerp_weight: float) -> float:
        """Share of the values off the model's that an update would leave as they are."""
        self._current.now()
        return self._bank.standstill(name, self._current.here.averaged, lerp_weight)

    def record(self) -> dict[str, Any]:
        """The stored tensors themselves, shards as DTensors, and how they are stored."""

        whole, bank = self._current.whole, self._bank
        return {
            "dtypes": dtype_names(bank.dtypes.values()),
            "buffers": self._current.buffers,
            "tensors": {name: whole(row) for name, row in bank.rows.items()},
            "remainder": {name: whole(bank.beside(name)) for name in bank.rows},
            "copied": whole(self._copied),
            "refreshed": {name: whole(row) for name, row in self._refreshed.items()},
        }

    @torch.inference_mode(False)
    @torch.no_grad()
    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the values of `record()`, and what it averages and copies.

        Raises:
            WeightMismatchError: before anything has changed, if it has other weights.
        """
        own, admitted = self._current.layout, self._current.admitted
        record = without_averaged_vectors(record, self._current.here)
        layout = match_layout(own, record, buffers=self._current.buffers, admitted=admitted)
        if layout is self._current.layout:
            check_weights(record, layout, dtypes=self._bank.dtypes)
        else:
            check_weights(record, layout, dtypes=stored_dtypes(layout.averaged, self._dtype))
            self._current.arrange(layout)
            self._allocate()
        for name in self._names:
            tensors, beside = (sharded.local_all(record[x][name]) for x in ("tensors", "remainder"))
            self._bank.restore(name, tensors, beside, self._current.here.averaged)
        for key, x in sharded.local_all(record["copied"]).items():
            held = self._copied[key]
            if held.layout is torch.strided and held.shape == x.shape:
                held.copy_(x)
            else:
                self._copied[key] = x.to(held.device, held.dtype, copy=True)
        self._bind()
        self._torn = False
        self._current.note_frozen()
        # What an optimizer has and the state does not was frozen then: it is the model's so far.
        if self._current.readmit():
            self._grow()
        self.drop_refreshed()
        self.refresh({n: sharded.local_all(row) for n, row in record["refreshed"].items()})
