"""What is stored of a model's weights for each average."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyak.averaging import kernels
from polyak.averaging.model import sharded
from polyak.averaging.model.live import LiveWeights
from polyak.averaging.model.weights import extra_states
from polyak.averaging.storage.bank import Bank
from polyak.averaging.storage.state_dict import (
    check_weights,
    dtype_names,
    match_layout,
    stored_dtypes,
)


class Store:
    """Averaged tensors, copied ones and refreshed statistics; what is frozen is the model's.

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
        here, device = self._live.here, self._device
        dtypes = stored_dtypes(here.averaged, self._dtype)
        self._bank = Bank(
            self._names, here.averaged, dtypes=dtypes, device=device, snapshots=self._snapshots
        )
        self._copied = {
            key: x.detach().to(device or x.device, copy=True) for key, x in here.copied.items()
        }

    @torch.inference_mode(False)
    @torch.no_grad()
    def track(self) -> None:
        """Average from now on also what trains now and did not, and buffers that are new.

        What was averaged or copied and is still there stays so, with its values.

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

    @property
    def rows(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Per average its averaged tensors by key, as they are stored."""
        return self._bank.rows

    def gather(self) -> None:
        """Take the live weights in, or what was sent of them once it is down."""
        self._live.ready()
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
        live = [self._live.source.copied[key].detach() for key in self._copied]
        held = list(self._copied.values())
        if keep is not None:
            pairs = zip(live, held, strict=True)
            live = [torch.where(keep.to(m.device), x.to(m.device), m) for x, m in pairs]
        if held:
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
                self._refreshed[name] = {k: x.to(held[k], copy=True) for k, x in fresh.items()}

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
        return {k: copies[listed] for k, listed in live.names.items()} | extra_states(
            self._live.model
        )

    def standstill(self, name: str, lerp_weight: float) -> float:
        """Share of the values off the model's that an update would leave as they are."""
        self._live.now()
        return self._bank.standstill(name, self._live.here.averaged, lerp_weight)

    def record(self) -> dict[str, Any]:
        """The stored tensors themselves, shards as DTensors, and how they are stored."""

        whole, bank = self._live.whole, self._bank
        return {
            "dtypes": dtype_names(bank.dtypes.values()),
            "buffers": self._live.buffers,
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
        layout = match_layout(self._live.layout, record, buffers=self._live.buffers)
        if layout is self._live.layout:
            check_weights(record, layout, dtypes=self._bank.dtypes)
        else:
            check_weights(record, layout, dtypes=stored_dtypes(layout.averaged, self._dtype))
            self._live.arrange(layout)
            self._allocate()
        for name in self._names:
            tensors, beside = (sharded.local_all(record[x][name]) for x in ("tensors", "remainder"))
            self._bank.restore(name, tensors, beside, self._live.here.averaged)
        for key, x in sharded.local_all(record["copied"]).items():
            self._copied[key].copy_(x)
        self.drop_refreshed()
        self.refresh({n: sharded.local_all(row) for n, row in record["refreshed"].items()})
