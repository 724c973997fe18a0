"""What is stored of a model's weights for each average, and lending it to the model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging import kernels, sharded, swap
from polyak.averaging.bank import Bank
from polyak.averaging.inventory import Buffers, Inventory, copy_infinite, inventory, wide
from polyak.averaging.watch import Watch


class Holdings:
    """Averaged tensors, copied ones, and BatchNorm statistics refreshed for an average.

    Frozen parameters are not stored: they are read from the model.

    Args:
        model: Whose weights, without wrappers.
        names: The averages' names.
        buffers: Whether floating-point buffers are averaged or copied.
        dtype: Of the averages; None keeps the weights', with float32 for narrow ones.
        device: Where the averages live; None means beside the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        buffers: Buffers,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        self.model = model
        self._names = tuple(names)
        self.buffers: Buffers = buffers
        self._dtype = dtype
        self._device = device
        sharded.refuse_flat(model.modules())
        sharded.reshard(list(model.modules()))
        self._first = inventory(model, buffers=buffers)
        copy_infinite(self._first)
        self._watch = Watch(model, self._first)
        self._bank = self._new_bank(self._first)
        self.mesh = sharded.mesh_of(self._first.averaged.values())
        self._copied = {
            key: x.detach().clone() for key, x in sharded.local_all(self._first.copied).items()
        }
        self.refreshed: dict[str, dict[str, Tensor]] = {}
        """By average: statistics that lie over the averaged ones until the next update."""

    @property
    def is_sharded(self) -> bool:
        """Whether processes hold parts of the model's weights."""
        return any(map(sharded.is_sharded, self._watch.found.all()))

    @property
    def dtypes(self) -> str:
        """The dtypes of the stored averages, such as "float32"."""
        row = self._bank.rows[self._names[0]]
        return ", ".join(sorted({str(x.dtype).removeprefix("torch.") for x in row.values()}))

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The model and all its parts."""
        return self._watch.modules

    def live(self) -> Inventory:
        """The model's tensors at this moment.

        Raises:
            WeightMismatchError: if weights appeared, vanished, changed shape or were unfrozen.
        """
        if self._watch.holds():
            return self._watch.found
        sharded.reshard(list(self.model.modules()))
        live = inventory(self.model, buffers=self.buffers, like=self._first)
        self._first.check_same(live)
        # What is lent goes back to where it was, and then the old watch holds again.
        if not swap.holds_lent_weights(self.model):
            self._watch = Watch(self.model, live)
            self._bank.bind(sharded.local_all(live.averaged))
        return live

    def track(self) -> None:
        """Average from now on what trains now, frozen before or not."""
        old = self._bank
        sharded.reshard(list(self.model.modules()))
        self._first = inventory(self.model, buffers=self.buffers)
        copy_infinite(self._first)
        self._watch = Watch(self.model, self._first)
        self._bank = self._new_bank(self._first)
        self.mesh = sharded.mesh_of(self._first.averaged.values())
        # A parameter that was frozen is its own average so far.
        for name in self._names:
            for kept, before in (
                (self._bank.rows[name], old.rows[name]),
                (self._bank.remainder[name], old.remainder[name]),
            ):
                _copy_over(kept, {key: x for key, x in before.items() if key in kept})

    def nonfinite(self) -> list[str]:
        """Names of the averaged weights that hold NaN or infinity in the model."""
        averaged = sharded.local_all(self.live().averaged)
        return [name for name, x in averaged.items() if not kernels.all_finite([x])]

    def gather(self) -> bool:
        """Take the live weights in; whether they are all finite, in every process's shards."""
        self.live()
        self._bank.gather()
        return self.all_agree(self._bank.finite())

    def all_agree(self, fine: bool) -> bool:
        """Whether all processes that hold shards say `fine`; of plain weights, this one alone."""
        return sharded.all_agree(fine, self.mesh)

    def gather_unchecked(self) -> None:
        """Take the live weights in as they are."""
        self.live()
        self._bank.gather()

    def fold(self, lerp_weights: Sequence[float]) -> None:
        """Move every average by its lerp weight towards what was gathered."""
        self._bank.fold(lerp_weights)
        if self._copied:
            copied = self._watch.found.copied
            live = [sharded.local(copied[key]).detach() for key in self._copied]
            torch._foreach_copy_(list(self._copied.values()), live)
        self.refreshed.clear()

    def weights(self, name: str) -> dict[str, Tensor]:
        """All that is stored here for an average, refreshed statistics in their place."""
        return {**self._bank.rows[name], **self._copied, **self.refreshed.get(name, {})}

    def state_dict(self, name: str) -> dict[str, Tensor]:
        """Copies of an average's weights under all names of the model's `state_dict()`."""
        live = self.live()
        stored = sharded.whole_all(self.weights(name), {**live.averaged, **live.copied})
        copies = {key: x.detach().clone() for key, x in {**live.frozen, **stored}.items()}
        return {key: copies[listed] for key, listed in live.names.items()}

    def still(self, name: str, lerp_weight: float) -> float:
        """Share of the values off the model's that an update would leave as they are."""
        return self._bank.still(name, sharded.local_all(self.live().averaged), lerp_weight)

    @contextmanager
    def lent(self, name: str, owner: object) -> Iterator[None]:
        """Let the model hold an average inside the block."""
        live = self.live()
        # Forward passes may write to buffers, so the model gets copies of those.
        weights = {
            key: x if isinstance(live.averaged.get(key), nn.Parameter) else x.clone()
            for key, x in self.weights(name).items()
        }
        tensors = {**live.averaged, **live.copied}
        spread = {key: x for key, x in tensors.items() if sharded.is_sharded(x)}
        plain = {key: x for key, x in weights.items() if key not in spread}
        with (
            swap.owning(self.modules, owner),
            sharded.lent(self.modules, spread, weights),
            swap.lent(self.modules, tensors, plain),
        ):
            yield

    def record(self) -> dict[str, Any]:
        """The stored tensors themselves, shards as DTensors."""
        found = self._watch.found
        likes = {**found.averaged, **found.copied}

        def rows(stored: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
            return {name: sharded.whole_all(row, likes) for name, row in stored.items()}

        return {
            "tensors": rows(self._bank.rows),
            "remainder": rows(self._bank.remainder),
            "copied": sharded.whole_all(self._copied, likes),
            "refreshed": rows(self.refreshed),
        }

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the values of `record()`."""
        for name in self._names:
            _copy_over(self._bank.rows[name], record["tensors"][name])
            _copy_over(self._bank.remainder[name], record["remainder"][name])
        _copy_over(self._copied, record["copied"])
        self.refreshed = {
            name: {key: x.clone() for key, x in sharded.local_all(tensors).items()}
            for name, tensors in record["refreshed"].items()
        }

    def _new_bank(self, found: Inventory) -> Bank:
        dtypes = {key: self._stored_dtype(x) for key, x in found.averaged.items()}
        weights = sharded.local_all(found.averaged)
        return Bank(self._names, weights, dtypes=dtypes, device=self._device)

    def _stored_dtype(self, tensor: Tensor) -> torch.dtype:
        keeps = self._dtype is None or tensor.is_complex()
        return wide(tensor.dtype) if keeps else self._dtype or tensor.dtype


def _copy_over(kept: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for key, x in values.items():
        kept[key].copy_(sharded.local(x))
