"""The memory of several averages, laid out so that an update reads each weight once.

On the CPU a weight of n values has one block (M, n) for all M averages, and small weights share
blocks; elsewhere every average has tensors of its own. Either way each average's tensor owns
just its own bytes, so that saving or lending one drags no other along.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyak.averaging import kernels
from polyak.averaging.storage import cpu_blocks
from polyak.averaging.storage.snapshots import Snapshots, SnapshotShares

_CPU = torch.device("cpu")


class Bank:
    """Tensors of M averages of the same weights.

    Args:
        names: The averages' names.
        weights: First values by key.
        dtypes: Dtype of each weight's averages, by key; bfloat16 is half of a float32, see
            `kernels.split`.
        device: Where the averages live; None means beside each weight.
        snapshots: Of averages that are means of their last snapshots, how many each keeps.
        shares: Of these, the share of each of so many snapshots, oldest first; equal without.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Mapping[str, Tensor],
        *,
        dtypes: Mapping[str, torch.dtype],
        device: torch.device | str | None = None,
        snapshots: Mapping[str, int] | None = None,
        shares: Mapping[str, SnapshotShares] | None = None,
    ) -> None:
        self._snapshots = {
            name: Snapshots(count, device, (shares or {}).get(name))
            for name, count in (snapshots or {}).items()
        }
        # A lerp moves the first rows of a block; means of snapshots come after them.
        names = sorted(names, key=lambda name: name in self._snapshots)
        self._lerped = [name for name in names if name not in self._snapshots]

        self.dtypes = dict(dtypes)
        """Of each weight's averages, by key."""
        self.rows: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        """Per average its tensors by key, in the model's order."""
        self.remainder: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        """Per average what bfloat16 tensors lack to float32, by key."""
        self._blocks: list[cpu_blocks.Block] = []
        self._columns: dict[torch.dtype, tuple[Sequence[float], Tensor]] = {}
        self.wrote = False
        """Set by `fold` once something was written."""
        self._allocate(weights, device)
        for name in self.rows:
            for key, x in weights.items():
                self.put(name, key, x.detach())
        self.bind(weights)

    def _allocate(self, weights: Mapping[str, Tensor], device: torch.device | str | None) -> None:
        """Blocks for what can lie in them, tensors for the rest."""

        def like(key: str) -> Tensor:
            x = weights[key].detach()
            return torch.empty_like(x, dtype=self.dtypes[key], device=device or x.device)

        # Memory that is never written to is never taken, so these cost nothing on a CPU.
        on_cpu = [key for key, x in weights.items() if torch.device(device or x.device) == _CPU]
        blocked = {key: x for key in on_cpu if cpu_blocks.fits(x := like(key))}
        for keys in cpu_blocks.groups(blocked):
            block, values, remainders = cpu_blocks.allocate(keys, blocked, len(self.rows))
            self._blocks.append(block)
            for name, tensors, cut in zip(self.rows, values, remainders, strict=True):
                self.rows[name].update(zip(keys, tensors, strict=True))
                self.remainder[name].update(zip(keys, cut, strict=bool(cut)))
        self._listed = [key for key in weights if key not in blocked]
        self._narrow = {key for key in self._listed if kernels.needs_remainder(self.dtypes[key])}
        for name, row in self.rows.items():
            row |= {key: like(key) for key in self._listed}
            self.remainder[name] |= {
                key: torch.empty_like(row[key], dtype=torch.int16) for key in self._narrow
            }
            self.rows[name] = {key: row[key] for key in weights}

    def bind(self, weights: Mapping[str, Tensor]) -> None:
        """Remember which tensors to read; to be called again when one was replaced."""
        self.bound = weights
        likes = next(iter(self.rows.values()))
        for block in self._blocks:
            block.bind(weights, likes, lerped=len(self._lerped))
        self._listed_current = [weights[key].detach() for key in self._listed]
        self._read = self._listed_current[:]
        for block in self._blocks:
            self._read += block.current if block.scratch_n is None else [block.scratch_n]
        cut = [(x, kernels.halves_of(x)) for x in self._read]
        self._halves = [pair for _, pairs in cut for pair in pairs or ()]
        self._whole = [x for x, pairs in cut if pairs is None]

    def gather(self) -> None:
        """Take the current values of packed weights; before `finite` and `fold`."""
        for block in self._blocks:
            block.gather()

    def finite(self) -> bool:
        """Whether all current weights are finite; reads every value, writes nothing."""
        if kernels.finite_products(self._halves) and kernels.all_finite(self._whole):
            return True
        # Products may overflow, and there may be anything in gaps.
        return kernels.all_finite(self._read)

    def finite_flag(self) -> Tensor:
        """`finite` as a 0-dim bool on the weights' device, which the host does not wait for."""
        return kernels.finite_flag(self._read)

    def fold(self, lerp_weights: Mapping[str, float], *, keep: Tensor | None = None) -> None:
        """m_j ← m_j + w_j·(x − m_j), or the mean of the last snapshots, this one included.

        Args:
            lerp_weights: By average, in [0, 1]; above 0 of snapshots only without `keep`.
            keep: 0-dim bool, on whatever device: whether to move at all.
        """
        if self._lerped:
            self._lerp([lerp_weights[name] for name in self._lerped], keep)
        for name, snapshots in self._snapshots.items():
            if lerp_weights[name] > 0:
                self.wrote = True
                snapshots.take(self.bound)
                for key, mean in snapshots.mean(self.dtypes):
                    self.put(name, key, mean)

    def _lerp(self, lerp_weights: Sequence[float], keep: Tensor | None) -> None:
        likes = next(iter(self.rows.values()))
        for block in self._blocks:
            pieces = block.pieces if keep is None else None
            if pieces is not None:
                # A large block is moved in pieces, of which the second may fail.
                self.wrote |= len(pieces) > 1
                kernels.lerp_block(pieces, self._weight(lerp_weights, block.values_mn.dtype))
            else:
                self._lerp_converted(block, block.source_n(likes), lerp_weights, keep)
            self.wrote = True
        if self._listed:
            self._fold_listed(lerp_weights, keep)

    def _lerp_converted(
        self, block: cpu_blocks.Block, source_n: Tensor, lerp_weights: Sequence[float], keep: Any
    ) -> None:
        """The same towards current weights in other memory than the model's, or as `keep` says."""
        count, dtype = len(lerp_weights), source_n.dtype
        weight_m1 = self._column(lerp_weights, dtype)
        if keep is not None:
            weight_m1 = weight_m1 * keep.to(_CPU)
            source_n = kernels.zero_unless(source_n, keep)
        values_mn, low_mn = block.values_mn[:count], block.remainder_mn
        self.wrote |= source_n.numel() > kernels.SPLIT_TILE
        if low_mn is None:
            pieces = kernels.pieces_of(values_mn, source_n, packed=len(block.keys) > 1)
            kernels.lerp_block(pieces, weight_m1 if count > 1 else weight_m1[0])
        else:
            kernels.lerp_split(values_mn, low_mn[:count], source_n, weight_m1)

    def _weight(self, lerp_weights: Sequence[float], dtype: torch.dtype) -> Tensor | float:
        return lerp_weights[0] if len(lerp_weights) == 1 else self._column(lerp_weights, dtype)

    def _column(self, lerp_weights: Sequence[float], dtype: torch.dtype) -> Tensor:
        """Lerp weights as a tensor; those of the update before are mostly the same."""
        before, column = self._columns.get(dtype, (None, None))
        if column is None or before != lerp_weights:
            column = torch.tensor(lerp_weights, dtype=dtype, device=_CPU)[:, None]
            self._columns[dtype] = (lerp_weights, column)
        return column

    def standstill(self, name: str, weights: Mapping[str, Tensor], lerp_weight: float) -> float:
        """Share of the values off the current ones that an update would leave as they are."""
        if name in self._snapshots:
            return 0.0  # Every mean is computed anew, so no step is lost in rounding.
        still, off = 0, 0
        for key, m in self.rows[name].items():
            x = weights[key].detach().to(m.device)
            narrow = key in self.remainder[name]
            before = kernels.join(m, self.remainder[name][key]) if narrow else m
            moves = before.lerp(x.to(before.dtype), lerp_weight) != before
            differs = x != before
            still += int((differs & ~moves).sum())
            off += int(differs.sum())
        return still / off if off else 0.0

    def put(self, name: str, key: str, values: Tensor) -> None:
        """Let an average have these values."""
        if key not in self.remainder[name]:
            self.rows[name][key].copy_(values)
            return
        high, low = kernels.split(values.to(self.rows[name][key].device, torch.float32))
        self.rows[name][key].copy_(high)
        self.remainder[name][key].copy_(low)

    def beside(self, name: str) -> dict[str, Tensor]:
        """What going on exactly needs beside an average's tensors: remainder and snapshots."""
        snapshots = self._snapshots.get(name)
        return {**self.remainder[name], **(snapshots.record() if snapshots else {})}

    def restore(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        beside: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
    ) -> None:
        """Take over an average's tensors and what was `beside` them, laid out as the weights."""
        low = {key: beside[key] for key in self.remainder[name]}
        _copy_over(self.rows[name], tensors)
        _copy_over(self.remainder[name], low)
        if name in self._snapshots:
            taken = {key: x for key, x in beside.items() if key not in low}
            self._snapshots[name].restore(taken, weights)

    def take_over(self, other: "Bank", weights: Mapping[str, Tensor]) -> None:
        """Go on with the averages of a bank that had some of these weights, and its snapshots."""
        for name in self.rows:
            for own, before in (
                (self.rows[name], other.rows[name]),
                (self.remainder[name], other.remainder[name]),
            ):
                _copy_over(own, {key: x for key, x in before.items() if key in own})
        self._snapshots = other._snapshots
        for snapshots in self._snapshots.values():
            snapshots.track(weights)

    def _fold_listed(self, lerp_weights: Sequence[float], keep: Tensor | None) -> None:
        """The same for tensors outside blocks."""
        plain = [i for i, key in enumerate(self._listed) if key not in self._narrow]
        folded = {name: self.rows[name] for name in self._lerped}
        rows = [[row[self._listed[i]] for i in plain] for row in folded.values()]
        self.wrote |= keep is not None
        kernels.lerp_all(rows, [self._listed_current[i] for i in plain], lerp_weights, keep=keep)
        self.wrote = True
        for x, key in zip(self._listed_current, self._listed, strict=True):
            if key in self._narrow:
                for (name, row), w in zip(folded.items(), lerp_weights, strict=True):
                    m = kernels.join(row[key], self.remainder[name][key])
                    if keep is None:
                        self.put(name, key, m.lerp_(x.to(m), w))
                    else:
                        source = kernels.zero_unless(x.to(m), keep)
                        self.put(name, key, m.lerp_(source, w * keep.to(m)))


def _copy_over(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for key, x in values.items():
        own[key].copy_(x)
