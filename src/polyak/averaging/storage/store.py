"""What is stored of a model's weights for each average, and lending it to the model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging import kernels
from polyak.averaging.kinds.window import Snapshots
from polyak.averaging.model import copies, modes, sharded, swap
from polyak.averaging.model.live import Live
from polyak.averaging.model.weights import Buffers, Inventory, extra_states
from polyak.averaging.storage.bank import Bank
from polyak.averaging.storage.state_dict import sorted_as
from polyak.errors import StateError


class Holdings:
    """Averaged tensors, copied ones, and BatchNorm statistics refreshed for an average.

    Frozen parameters are not stored: they are read from the model.

    Args:
        model: Whose weights, without wrappers.
        names: The averages' names.
        windows: Of those that are windows, how many snapshots each keeps.
        buffers: Whether floating-point buffers are averaged or copied.
        dtype: Of the averages; None keeps the weights', with float32 for narrow ones.
        device: Where the averages live; None means beside the weights.
        like: What to average and what to copy; None finds out.
    """

    # What is kept must be writable ever after, so no inference tensors, wherever this is called.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        windows: Mapping[str, int],
        buffers: Buffers,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        like: Inventory | None = None,
    ) -> None:
        self.model = model
        # The bank folds its first averages; windows come after them.
        self._names = tuple(sorted(names, key=lambda name: name in windows))
        self._windows = {name: Snapshots(last, device) for name, last in windows.items()}
        self.buffers: Buffers = buffers
        self._dtype = dtype
        self._device = device
        self.live = Live(model, buffers=buffers, device=device, like=like)
        """The weights to average."""
        self._bank = self._new_bank()
        self._copied = self._new_copies()
        self._kinds_of: tuple[Inventory | None, Sequence[str], dict[str, Tensor]] = (None, (), {})
        self.refreshed: dict[str, dict[str, Tensor]] = {}
        """By average: statistics that lie over the averaged ones until the next update."""

    @property
    def dtypes(self) -> str:
        """The dtypes of the stored averages, such as "float32"."""
        row = self._bank.rows[self._names[0]]
        return ", ".join(sorted({str(x.dtype).removeprefix("torch.") for x in row.values()}))

    @torch.inference_mode(False)
    @torch.no_grad()
    def track(self) -> None:
        """Average from now on also what trains now and did not, and buffers that are new.

        What was averaged or copied and is still there stays so, with the values it has.

        Raises:
            WeightMismatchError: if a weight that stays has another shape.
        """
        bank, copied = self._bank, self._copied
        self.live.track()
        here = self.live.here
        self._bank = self._new_bank()
        self._copied = self._new_copies() | {k: x for k, x in copied.items() if k in here.copied}
        # A parameter that was frozen is its own average so far.
        for name in self._names:
            for kept, before in (
                (self._bank.rows[name], bank.rows[name]),
                (self._bank.remainder[name], bank.remainder[name]),
            ):
                _copy_over(kept, {key: x for key, x in before.items() if key in kept})
        for snapshots in self._windows.values():
            snapshots.track(here.averaged)
        held = here.averaged.keys() | here.copied.keys()
        self.refreshed = {
            name: {key: x for key, x in row.items() if key in held}
            for name, row in self.refreshed.items()
        }

    def gather(self) -> None:
        """Take the live weights in, or what was sent of them once it is down."""
        if self.live.offloaded:
            self.live.wait()
        else:
            self.live.now()
        if self._bank.bound is not self.live.source.averaged:
            self._bank.bind(self.live.source.averaged)
        self._bank.gather()

    def finite(self) -> bool:
        """Whether all that was gathered is finite, here."""
        return self._bank.finite()

    def finite_flag(self) -> Tensor:
        """Whether it is on all processes, as a 0-dim bool on the device."""
        return sharded.unanimous(self._bank.finite_flag(), self.live.mesh)

    def fold(self, lerp_weights: Mapping[str, float], *, keep: Tensor | None = None) -> None:
        """Move every average by its lerp weight towards what was gathered.

        Args:
            lerp_weights: By average; that of a window may be above 0 only without `keep`.
            keep: 0-dim bool on a device: whether to move at all; None moves.
        """
        weights = [lerp_weights[name] for name in self._names if name not in self._windows]
        self._bank.fold(weights, keep=keep)
        source = self.live.source
        for name, snapshots in self._windows.items():
            if lerp_weights[name] > 0:
                snapshots.take(source.averaged)
                dtypes = {key: m.dtype for key, m in self._bank.rows[name].items()}
                for key, mean in snapshots.mean(dtypes):
                    self._bank.put(name, key, mean)
        if self._copied:
            live = [source.copied[key].detach() for key in self._copied]
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
        self.refreshed.clear()

    def weights(self, name: str) -> dict[str, Tensor]:
        """All that is stored here for an average, refreshed statistics in their place.

        What a bfloat16 average lacks to float32 is added, unless the model is bfloat16 itself:
        then the stored tensor is what it can hold, and can be lent without a copy.
        """
        rows, live = self._bank.rows[name], self.live.here.averaged
        whole = {
            key: kernels.joined(rows[key], low)
            for key, low in self._bank.remainder[name].items()
            if live[key].dtype != rows[key].dtype
        }
        return {**rows, **whole, **self._copied, **self.refreshed.get(name, {})}

    def refresh(self, statistics: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Lay BatchNorm statistics over the averaged ones of each average named."""
        for name, found in statistics.items():
            held = self.weights(name)
            if found:
                self.refreshed[name] = {key: x.to(held[key]) for key, x in found.items()}

    def state_dict(self, name: str) -> dict[str, Tensor]:
        """Copies of an average's weights under all names of the model's `state_dict()`.

        Extra states are the model's own; one that is no tensor is left out.
        """
        live = self.live.now()
        stored = self.live.whole(self.weights(name))
        copies = {key: x.detach().clone() for key, x in {**live.frozen, **stored}.items()}
        weights = {key: copies[listed] for key, listed in live.names.items()}
        return {**weights, **extra_states(self.model)}

    def module(self, name: str, owner: object) -> nn.Module:
        """A copy of the model that holds an average; of a model that holds its owner, without."""
        if any(map(sharded.is_sharded, self.live.found.tensors())):
            raise StateError(
                "module() was called of a model that is spread over processes; expected one that "
                "is whole. Use applied(name), or polyak.averaging.gathered and load its state dict."
            )
        swap.refuse_others(self.live.modules, owner)
        live = self.live.now()
        return copies.holding(
            self.model, self.weights(name), found=live, buffers=self.buffers, without=owner
        )

    def still(self, name: str, lerp_weight: float) -> float:
        """Share of the values off the model's that an update would leave as they are."""
        if name in self._windows:
            return 0.0  # Every mean is computed anew, so no step is lost in rounding.
        self.live.now()
        return self._bank.still(name, self.live.here.averaged, lerp_weight)

    @contextmanager
    def lent(self, name: str, owner: object, *, evaluating: bool = False) -> Iterator[None]:
        """Let the model hold an average inside the block; in eval mode if `evaluating`."""
        live, modules = self.live.now(), self.live.modules
        # Forward passes may write to buffers, so the model gets copies of those.
        buffers, spread = self._told_apart(live)
        weights = self.weights(name)
        for key in buffers:
            weights[key] = weights[key].clone()
        tensors = {**live.averaged, **live.copied}
        plain = {key: x for key, x in weights.items() if key not in spread} if spread else weights
        with swap.owning(modules, owner) as undo:
            sharded.lend(undo, modules, spread, weights)
            swap.lend(undo, modules, tensors, plain)
            if evaluating:
                modes.evaluate(undo, modules)
            yield

    def _told_apart(self, live: Inventory) -> tuple[Sequence[str], dict[str, Tensor]]:
        """Names of the buffers, and the sharded tensors, listed once for each inventory."""
        known, buffers, spread = self._kinds_of
        if known is not live:
            tensors = {**live.averaged, **live.copied}
            buffers = [key for key, x in tensors.items() if not isinstance(x, nn.Parameter)]
            spread = {key: x for key, x in tensors.items() if sharded.is_sharded(x)}
            self._kinds_of = live, buffers, spread
        return buffers, spread

    def record(self) -> dict[str, Any]:
        """The stored tensors themselves, shards as DTensors, and how they are stored."""

        def rows(stored: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
            return {name: self.live.whole(row) for name, row in stored.items()}

        return {
            "dtypes": self.dtypes,
            "buffers": self.buffers,
            "tensors": rows(self._bank.rows),
            "remainder": rows({name: self._remainder(name) for name in self._names}),
            "copied": self.live.whole(self._copied),
            "refreshed": rows(self.refreshed),
        }

    def sorted_as(self, record: Mapping[str, Any]) -> "Holdings":
        """These, or new ones of the model if it is sorted otherwise in what `record()` gave.

        A parameter may be frozen by now that was averaged there, and a buffer that was averaged
        or copied there may have become infinite or finite since.
        """
        like = sorted_as(self.live.first, record, name=self._names[0], buffers=self.buffers)
        if like is self.live.first:
            return self
        return Holdings(
            self.model,
            self._names,
            windows={name: snapshots.last for name, snapshots in self._windows.items()},
            buffers=self.buffers,
            dtype=self._dtype,
            device=self._device,
            like=like,
        )

    @torch.inference_mode(False)
    @torch.no_grad()
    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the values of `record()`."""
        for name in self._names:
            _copy_over(self._bank.rows[name], record["tensors"][name])
            remainder = sharded.local_all(record["remainder"][name])
            low = {key: remainder.pop(key) for key in self._bank.remainder[name]}
            _copy_over(self._bank.remainder[name], low)
            if name in self._windows:
                self._windows[name].restore(remainder, self.live.here.averaged)
        _copy_over(self._copied, record["copied"])
        self.refreshed = {}
        self.refresh(
            {
                name: {key: x.clone() for key, x in sharded.local_all(tensors).items()}
                for name, tensors in record["refreshed"].items()
            }
        )

    def _remainder(self, name: str) -> dict[str, Tensor]:
        """What going on exactly needs beside an average's tensors."""
        window = self._windows.get(name)
        return {**self._bank.remainder[name], **(window.record() if window else {})}

    def _new_bank(self) -> Bank:
        averaged = self.live.here.averaged
        dtypes = {key: self._stored_dtype(x) for key, x in averaged.items()}
        return Bank(self._names, averaged, dtypes=dtypes, device=self._device)

    def _new_copies(self) -> dict[str, Tensor]:
        return {
            key: x.detach().to(self._device or x.device, copy=True)
            for key, x in self.live.here.copied.items()
        }

    def _stored_dtype(self, tensor: Tensor) -> torch.dtype:
        keeps = self._dtype is None or tensor.is_complex()
        return kernels.wide(tensor.dtype) if keeps else self._dtype or tensor.dtype


def _copy_over(kept: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for key, x in values.items():
        kept[key].copy_(sharded.local(x))
