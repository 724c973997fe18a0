"""The memory of several averages, laid out so that an update reads each weight once.

On the CPU a weight of n values has one block (M, n) for all M averages, and small weights share
blocks; elsewhere every average has tensors of its own. Either way each average's tensor owns
just its own bytes, so that saving or lending one drags no other along.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polyak.averaging import kernels

SMALL = 16_384
"""Values up to which a weight is packed with others: below it calls cost more than memory."""

PACK = 262_144
"""Values that a pack may hold: its scratch is 1 MB of float32."""

_ALIGNMENT = 64
_CPU = torch.device("cpu")


@dataclass(slots=True)
class Block:
    """One or several weights of all averages, flat."""

    keys: tuple[str, ...]
    values_mn: Tensor
    remainder_mn: Tensor | None
    """What bfloat16 averages lack to float32."""

    scratch_n: Tensor | None = None
    """Where a pack's live weights are gathered."""

    live: list[Tensor] = field(default_factory=list)
    """The model's tensors, flat where they are laid out as the averages are."""

    slots: list[Tensor] = field(default_factory=list)
    """The scratch's parts, each like its live tensor."""

    flat: bool = False
    """Whether the live tensors can be read as they are."""

    def bind(self, weights: Mapping[str, Tensor], likes: Mapping[str, Tensor]) -> None:
        """Read these tensors from now on."""
        tensors = [weights[key].detach() for key in self.keys]
        pairs = zip(tensors, self.keys, strict=True)
        self.flat = all(_same_layout(x, likes[key]) for x, key in pairs)
        self.live = [_flat(x) for x in tensors] if self.flat else tensors
        self.slots = []
        if self.scratch_n is not None and not self.flat:
            self.slots = list(_parts(self.scratch_n, [likes[key] for key in self.keys]))

    def gather(self) -> None:
        """Copy a pack's live weights to its scratch, in one call."""
        if self.scratch_n is None:
            return
        if self.slots:
            torch._foreach_copy_(self.slots, self.live)
        else:
            torch.cat(self.live, out=self.scratch_n)

    def source_n(self, likes: Mapping[str, Tensor]) -> Tensor:
        """The live weights, flat in the averages' layout and dtype; a pack must be gathered."""
        if self.scratch_n is not None:
            return self.scratch_n
        [x], [key] = self.live, self.keys
        if self.flat:
            return x
        return _flat(torch.empty_like(likes[key], dtype=_source_dtype(likes[key].dtype)).copy_(x))


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
        blocked = {key: x for key in on_cpu if _fits_block(x := like(key))}
        rows: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        remainder: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        self._blocks = []
        for keys in _groups(blocked):
            block, values, remainders = _allocate(keys, blocked, len(rows))
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
            dtype = _source_dtype(block.values_mn.dtype)
            if dtype not in by_dtype:
                by_dtype[dtype] = torch.tensor(lerp_weights, dtype=dtype)[:, None]
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


def _allocate(
    keys: tuple[str, ...], likes: Mapping[str, Tensor], averages: int
) -> tuple[Block, list[list[Tensor]], list[list[Tensor]]]:
    """A block, and per average its tensors and their remainders (empty where not needed)."""
    tensors = [likes[key] for key in keys]
    dtype, n = tensors[0].dtype, sum(x.numel() for x in tensors)
    values_mn, rows = _memory(averages, n, dtype)
    values = [list(_owned(row, tensors)) for row in rows]
    remainders: list[list[Tensor]] = [[] for _ in range(averages)]
    remainder_mn = None
    if kernels.is_split(dtype):
        remainder_mn, low_rows = _memory(averages, n, torch.int16)
        halves = [torch.empty_like(x, dtype=torch.int16) for x in tensors]
        remainders = [list(_owned(row, halves)) for row in low_rows]
    packed = len(keys) > 1
    scratch_n = torch.empty(n, dtype=_source_dtype(dtype)) if packed else None
    return Block(keys, values_mn, remainder_mn, scratch_n), values, remainders


def _memory(rows: int, n: int, dtype: torch.dtype) -> tuple[Tensor, list[tuple[bytearray, int]]]:
    """Zeros of shape (rows, n), and where each row starts in the buffer behind them."""
    buffer = bytearray(rows * n * dtype.itemsize + _ALIGNMENT)
    start = -torch.frombuffer(buffer, dtype=torch.uint8).data_ptr() % _ALIGNMENT
    block = torch.frombuffer(buffer, dtype=dtype, count=rows * n, offset=start).view(rows, n)
    return block, [(buffer, start + row * n * dtype.itemsize) for row in range(rows)]


def _owned(row: tuple[bytearray, int], likes: Sequence[Tensor]) -> Iterator[Tensor]:
    """Tensors like the given ones in consecutive memory, each with a storage of its own bytes."""
    buffer, offset = row
    for like in likes:
        flat = torch.frombuffer(buffer, dtype=like.dtype, count=like.numel(), offset=offset)
        yield flat.as_strided(like.shape, like.stride())
        offset += like.numel() * like.dtype.itemsize


def _parts(scratch_n: Tensor, likes: Sequence[Tensor]) -> Iterator[Tensor]:
    start = 0
    for like in likes:
        yield scratch_n.as_strided(like.shape, like.stride(), start)
        start += like.numel()


def _groups(likes: Mapping[str, Tensor]) -> Iterator[tuple[str, ...]]:
    """Keys that share a block: large weights alone, small ones of a dtype packed."""
    packs: dict[torch.dtype, list[str]] = {}
    sizes: dict[torch.dtype, int] = {}
    for key, like in likes.items():
        if like.numel() > SMALL:
            yield (key,)
            continue
        if sizes.get(like.dtype, 0) + like.numel() > PACK:
            yield tuple(packs.pop(like.dtype))
            sizes[like.dtype] = 0
        packs.setdefault(like.dtype, []).append(key)
        sizes[like.dtype] = sizes.get(like.dtype, 0) + like.numel()
    for keys in packs.values():
        yield tuple(keys)


def _fits_block(like: Tensor) -> bool:
    """Whether a tensor of the CPU is ordinary memory without gaps."""
    return (
        like.layout == torch.strided
        and like.dtype in (torch.float32, torch.float64, torch.bfloat16)
        and type(like) is Tensor
        and like.numel() > 0
        and _dense(like)
    )


def _dense(tensor: Tensor) -> bool:
    """Whether the values fill a stretch of memory without gap or overlap, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _same_layout(live: Tensor, like: Tensor) -> bool:
    return (
        live.dtype == _source_dtype(like.dtype)
        and live.device == like.device
        and live.stride() == like.stride()
    )


def _flat(tensor: Tensor) -> Tensor:
    return tensor.as_strided((tensor.numel(),), (1,))


def _source_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which live weights meet averages of `dtype`."""
    return torch.float32 if kernels.is_split(dtype) else dtype
