"""What is stored of a model's weights for each average."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyak.averaging import kernels
from polyak.averaging.model import sharded
from polyak.averaging.model.live import LiveWeights
from polyak.averaging.model.weights import Weights, extra_states
from polyak.averaging.storage.bank import Bank
from polyak.averaging.storage.state_dict import check_weights, dtype_names, match_layout


class Store:
    """Averaged tensors, copied ones, and BatchNorm statistics refreshed for an average.

    Frozen parameters are not stored: they are read from the model.

    Args:
        live: The weights to average.
        names: The averages' names.
        snapshots: Of those that are means of their last snapshots, how many each keeps.
        dtype: Of the averages; None keeps the weights', with float32 for narrow ones.
        device: Where the averages live; None means beside the weights.
    """

    # Stored tensors must stay writable, so no inference tensors, wherever this is called.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self,
        live: LiveWeights,
        names: Sequence[str],
        *,
        snapshots: Mapping[str, int],
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        self._live = live
        self._names = tuple(names)
        self._snapshots = snapshots
        self._dtype = dtype
        self._device = device
        self._refreshed: dict[str, dict[str, Tensor]] = {}
        self._allocate()

    def _allocate(self) -> None:
        here = self._live.here
        self._bank = Bank(
            self._names,
            here.averaged,
            dtypes={key: self._stored_dtype(x) for key, x in here.averaged.items()},
            device=self._device,
            snapshots=self._snapshots,
        )
        self._copied = {
            key: x.detach().to(self._device or x.device, copy=True)
            for key, x in here.copied.items()
        }

    @torch.inference_mode(False)
    @torch.no_grad()
    def track(self) -> None:
        """Average from now on also what trains now and did not, and buffers that are new.

        What was averaged or copied and is still there stays so, with the values it has.

        Raises:
            WeightMismatchError: if a weight that stays has another shape.
        """
        self._live.track()
        bank, copied = self._bank, self._copied
        self._allocate()
        # A parameter that was frozen is its own average so far.
        self._bank.take_over(bank, self._live.here.averaged)
        self._copied |= {key: x for key, x in copied.items() if key in self._copied}
        stored = self._bank.dtypes.keys() | self._copied.keys()
        self._refreshed = {
            name: {key: x for key, x in row.items() if key in stored}
            for name, row in self._refreshed.items()
        }

    def gather(self) -> None:
        """Take the live weights in, or what was sent of them once it is down."""
        if self._live.offloaded:
            self._live.wait()
        else:
            self._live.now()
        if self._bank.bound is not self._live.source.averaged:
            self._bank.bind(self._live.source.averaged)
        self._bank.gather()

    def finite(self) -> bool:
        """Whether all that was gathered is finite, here."""
        return self._bank.finite()

    def finite_flag(self) -> Tensor:
        """Whether it is on all processes, as a 0-dim bool on the device."""
        return sharded.unanimous(self._bank.finite_flag(), self._live.mesh)

    def fold(self, lerp_weights: Mapping[str, float], *, keep: Tensor | None = None) -> None:
        """Move every average by its lerp weight towards what was gathered.

        Args:
            lerp_weights: By average; that of snapshots may be above 0 only without `keep`.
            keep: 0-dim bool on a device: whether to move at all; None moves.
        """
        self._bank.fold(lerp_weights, keep=keep)
        if not self._copied:
            return
        live = [self._live.source.copied[key].detach() for key in self._copied]
        held = list(self._copied.values())
        if keep is not None:
            live = [
                torch.where(keep.to(m.device), x.to(m.device), m)
                for x, m in zip(live, held, strict=True)
            ]
        torch._foreach_copy_(held, live)

    def adopt(self, averages: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Let averages have these values, shards of sharded ones; the rest stays as it is."""
        for name, values in averages.items():
            for key, x in values.items():
                self._bank.put(name, key, x)
        self.drop_refreshed()

    def weights(self, name: str) -> dict[str, Tensor]:
        """All that is stored here for an average, refreshed statistics in their place.

        What a bfloat16 average lacks to float32 is added, unless the model is bfloat16 itself:
        then the stored tensor is what it can hold, and can be lent without a copy.
        """
        rows, live = self._bank.rows[name], self._live.here.averaged
        whole = {
            key: kernels.join(rows[key], low)
            for key, low in self._bank.remainder[name].items()
            if live[key].dtype != rows[key].dtype
        }
        return {**rows, **whole, **self._copied, **self._refreshed.get(name, {})}

    def refresh(self, statistics: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Lay BatchNorm statistics over the averaged ones of each average named."""
        for name, fresh in statistics.items():
            held = self.weights(name)
            if fresh:
                self._refreshed[name] = {key: x.to(held[key]) for key, x in fresh.items()}

    def drop_refreshed(self) -> None:
        """Go back to the averaged statistics."""
        self._refreshed.clear()

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Copies of an average's weights under all names of the model's `state_dict()`.

        Extra states are the model's own; one that is no tensor is left out.
        """
        live = self._live.now()
        stored = self._live.whole(self.weights(name))
        copies = {key: x.detach().clone() for key, x in {**live.frozen, **stored}.items()}
        weights = {key: copies[listed] for key, listed in live.names.items()}
        return {**weights, **extra_states(self._live.model)}

    def standstill(self, name: str, lerp_weight: float) -> float:
        """Share of the values off the model's that an update would leave as they are."""
        self._live.now()
        return self._bank.standstill(name, self._live.here.averaged, lerp_weight)

    def record(self) -> dict[str, Any]:
        """The stored tensors themselves, shards as DTensors, and how they are stored."""

        def rows(stored: Iterable[tuple[str, Mapping[str, Tensor]]]) -> dict[str, Any]:
            return {name: self._live.whole(row) for name, row in stored}

        return {
            "dtypes": dtype_names(self._bank.dtypes.values()),
            "buffers": self._live.buffers,
            "tensors": rows(self._bank.rows.items()),
            "remainder": rows((name, self._bank.beside(name)) for name in self._bank.rows),
            "copied": self._live.whole(self._copied),
            "refreshed": rows(self._refreshed.items()),
        }

    @torch.inference_mode(False)
    @torch.no_grad()
    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the values of `record()`, and what it averages and copies.

        Raises:
            WeightMismatchError: before anything has changed, if it has other weights.
        """
        layout = match_layout(self._live.layout, record, buffers=self._live.buffers)
        kept = layout is self._live.layout
        check_weights(record, layout, dtypes=self._bank.dtypes if kept else self._dtypes_of(layout))
        if not kept:
            self._live.arrange(layout)
            self._allocate()
        for name in self._names:
            tensors, beside = (sharded.local_all(record[x][name]) for x in ("tensors", "remainder"))
            self._bank.restore(name, tensors, beside, self._live.here.averaged)
        for key, x in sharded.local_all(record["copied"]).items():
            self._copied[key].copy_(x)
        self.drop_refreshed()
        fresh = {name: sharded.local_all(row) for name, row in record["refreshed"].items()}
        self.refresh({n: {key: x.clone() for key, x in row.items()} for n, row in fresh.items()})

    def _dtypes_of(self, layout: Weights) -> dict[str, torch.dtype]:
        return {key: self._stored_dtype(x) for key, x in layout.averaged.items()}

    def _stored_dtype(self, tensor: Tensor) -> torch.dtype:
        keeps = self._dtype is None or tensor.is_complex()
        return kernels.wide(tensor.dtype) if keeps else self._dtype or tensor.dtype
