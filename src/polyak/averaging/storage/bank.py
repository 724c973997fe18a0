"""The memory of several averages, laid out so that an update reads each weight once.

On the CPU a weight of n values has one block (M, n) for all M averages, and small weights share
blocks; elsewhere every average has tensors of its own. Either way each average's tensor owns
just its own bytes, so that saving or lending one drags no other along.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polyak.averaging import kernels
from polyak.averaging.storage import cpu_blocks

_CPU = torch.device("cpu")


class Bank:
    """Tensors of M averages of the same weights.

    Args:
        names: The averages' names.
        weights: First values by key.
        dtypes: Dtype of each weight's averages, by key; bfloat16 is half of a float32, see
            `kernels.split`.
        device: Where the averages live; None means beside each weight.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Mapping[str, Tensor],
        *,
        dtypes: Mapping[str, torch.dtype],
        device: torch.device | str | None = None,
    ) -> None:
        def like(key: str) -> Tensor:
            x = weights[key].detach()
            return torch.empty_like(x, dtype=dtypes[key], device=device or x.device)

        # Memory that is never written to is never taken, so these cost nothing on a CPU.
        on_cpu = [key for key, x in weights.items() if torch.device(device or x.device) == _CPU]
        blocked = {key: x for key in on_cpu if cpu_blocks.fits(x := like(key))}
        rows: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        remainder: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        self._blocks = []
        for keys in cpu_blocks.groups(blocked):
            block, values, remainders = cpu_blocks.allocate(keys, blocked, len(rows))
            self._blocks.append(block)
            for name, tensors, cut in zip(rows, values, remainders, strict=True):
                rows[name].update(zip(keys, tensors, strict=True))
                remainder[name].update(zip(keys, cut, strict=bool(cut)))
        self._listed = [key for key in weights if key not in blocked]
        self._narrow = {key for key in self._listed if kernels.is_split(dtypes[key])}
        for name in rows:
            rows[name] |= {key: like(key) for key in self._listed}
            remainder[name] |= {
                key: torch.empty_like(rows[name][key], dtype=torch.int16) for key in self._narrow
            }
        self.rows = {name: {key: row[key] for key in weights} for name, row in rows.items()}
        """Per average its tensors by key, in the model's order."""
        self.remainder = remainder
        """Per average what bfloat16 tensors lack to float32, by key."""
        for name in self.rows:
            for key, x in weights.items():
                self.put(name, key, x.detach())
        self.bind(weights)

    def bind(self, weights: Mapping[str, Tensor]) -> None:
        """Remember which live tensors to read; to be called again when one was replaced."""
        self.bound = weights
        likes = next(iter(self.rows.values()))
        for block in self._blocks:
            block.bind(weights, likes)
        self._listed_live = [weights[key].detach() for key in self._listed]

    def gather(self) -> None:
        """Take the live values of packed weights; before `finite` and `fold`."""
        for block in self._blocks:
            block.gather()

    def finite(self) -> bool:
        """Whether all live weights are finite; reads every value, writes nothing."""
        return kernels.all_finite(self._read())

    def finite_flag(self) -> Tensor:
        """`finite` as a 0-dim bool on the weights' device, which the host does not wait for."""
        return kernels.finite_flag(self._read())

    def fold(self, lerp_weights: Sequence[float], *, keep: Tensor | None = None) -> None:
        """m_j ← m_j + w_j·(x − m_j) for the first averages; lerp weights in [0, 1].

        Args:
            lerp_weights: Of each average; further averages stay as they are.
            keep: 0-dim bool, on whatever device: whether to move at all.
        """
        if not lerp_weights:
            return
        count = len(lerp_weights)
        likes = next(iter(self.rows.values()))
        by_dtype: dict[torch.dtype, Tensor] = {}
        for block in self._blocks:
            dtype = cpu_blocks.source_dtype(block.values_mn.dtype)
            if dtype not in by_dtype:
                by_dtype[dtype] = torch.tensor(lerp_weights, dtype=dtype, device=_CPU)[:, None]
                if keep is not None:
                    by_dtype[dtype] *= keep.to(_CPU)
            source_n = block.source_n(likes)
            source_n = source_n if keep is None else kernels.kept(source_n, keep)
            values_mn, low_mn = block.values_mn[:count], block.remainder_mn
            if low_mn is None:
                kernels.lerp_block(values_mn, source_n, by_dtype[dtype])
            else:
                kernels.lerp_split(values_mn, low_mn[:count], source_n, by_dtype[dtype])
        self._fold_listed(lerp_weights, keep)

    def _read(self) -> list[Tensor]:
        """The live weights, or what was gathered of them."""
        read: list[Tensor] = []
        for block in self._blocks:
            read += block.live if block.scratch_n is None else [block.scratch_n]
        return read + self._listed_live

    def still(self, name: str, weights: Mapping[str, Tensor], lerp_weight: float) -> float:
        """Share of the values off the live ones that an update would leave as they are."""
        still, off = 0, 0
        for key, m in self.rows[name].items():
            x = weights[key].detach().to(m.device)
            narrow = key in self.remainder[name]
            before = kernels.joined(m, self.remainder[name][key]) if narrow else m
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

    def _fold_listed(self, lerp_weights: Sequence[float], keep: Tensor | None) -> None:
        """The same for tensors outside blocks."""
        plain = [i for i, key in enumerate(self._listed) if key not in self._narrow]
        folded = dict(list(self.rows.items())[: len(lerp_weights)])
        rows = [[row[self._listed[i]] for i in plain] for row in folded.values()]
        kernels.lerp_all(rows, [self._listed_live[i] for i in plain], lerp_weights, keep=keep)
        for x, key in zip(self._listed_live, self._listed, strict=True):
            if key in self._narrow:
                for (name, row), w in zip(folded.items(), lerp_weights, strict=True):
                    m = kernels.joined(row[key], self.remainder[name][key])
                    if keep is None:
                        self.put(name, key, m.lerp_(x.to(m), w))
                    else:
                        self.put(name, key, m.lerp_(kernels.kept(x.to(m), keep), w * keep.to(m)))
