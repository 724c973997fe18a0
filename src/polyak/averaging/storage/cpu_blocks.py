"""Blocks of memory that hold one weight, or several small ones, of all averages on a CPU."""

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


@dataclass(slots=True)
class Block:
    """One or several weights of all averages, flat."""

    keys: tuple[str, ...]
    values_mn: Tensor
    remainder_mn: Tensor | None
    """What bfloat16 averages lack to float32."""

    scratch_n: Tensor | None = None
    """Where a pack's current weights are gathered."""

    current: list[Tensor] = field(default_factory=list)
    """The model's tensors, flat where they are laid out as the averages are."""

    slots: list[Tensor] = field(default_factory=list)
    """The scratch's parts, each like its current tensor."""

    flat: bool = False
    """Whether the current tensors can be read as they are."""

    pieces: kernels.Pieces | None = None
    """What is lerped towards what, cut once; None where current values must be converted before."""

    _gathers: list[tuple[list[Tensor], Tensor]] = field(default_factory=list)
    """Live tensors of a pack, and where in the scratch they go, a few at a time."""

    def bind(
        self, weights: Mapping[str, Tensor], likes: Mapping[str, Tensor], *, lerped: int
    ) -> None:
        """Read these tensors from now on.

        Args:
            weights: The model's, by key.
            likes: An average's.
            lerped: How many of the averages are moved by a lerp: those that come first.
        """
        tensors = [weights[key].detach() for key in self.keys]
        pairs = zip(tensors, self.keys, strict=True)
        self.flat = all(_same_layout(x, likes[key]) for x, key in pairs)
        self.current = [_flat(x) for x in tensors] if self.flat else tensors
        self.slots, self._gathers = [], []
        if self.scratch_n is not None and not self.flat:
            self.slots = list(_parts(self.scratch_n, [likes[key] for key in self.keys]))
        elif self.scratch_n is not None:
            self._gathers = list(_gathers(self.scratch_n, self.current))
        self.pieces = self._pieces(likes, lerped)

    def _pieces(self, likes: Mapping[str, Tensor], lerped: int) -> kernels.Pieces | None:
        if self.remainder_mn is not None:
            return None
        values_mn = self.values_mn[:lerped]
        if self.scratch_n is not None or self.flat:
            return kernels.pieces_of(values_mn, self.source_n(likes), packed=len(self.keys) > 1)
        [x], [key] = self.current, self.keys
        if lerped == 1 and x.dtype == values_mn.dtype and x.device == values_mn.device:
            # As it is: of one average no value is read twice, in whatever order it lies.
            return [(values_mn[0].as_strided(likes[key].shape, likes[key].stride()), x)]
        return None

    def gather(self) -> None:
        """Copy a pack's current weights to its scratch, in a few calls."""
        if self.slots:
            torch._foreach_copy_(self.slots, self.current)
        for current, place in self._gathers:
            torch.cat(current, out=place)

    def source_n(self, likes: Mapping[str, Tensor]) -> Tensor:
        """The current weights, flat in the averages' layout and dtype; a pack must be gathered."""
        if self.scratch_n is not None:
            return self.scratch_n
        [x], [key] = self.current, self.keys
        if self.flat:
            return x
        return _flat(torch.empty_like(likes[key], dtype=source_dtype(likes[key].dtype)).copy_(x))


def groups(likes: Mapping[str, Tensor]) -> Iterator[tuple[str, ...]]:
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


def fits(like: Tensor) -> bool:
    """Whether a tensor of the CPU is ordinary memory without gaps."""
    return (
        like.layout == torch.strided
        and like.dtype in (torch.float32, torch.float64, torch.bfloat16)
        and type(like) is Tensor
        and like.numel() > 0
        and _dense(like)
    )


def source_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which current weights meet averages of `dtype`."""
    return torch.float32 if kernels.needs_remainder(dtype) else dtype


def allocate(
    keys: tuple[str, ...], likes: Mapping[str, Tensor], averages: int
) -> tuple[Block, list[list[Tensor]], list[list[Tensor]]]:
    """A block, and per average its tensors and their remainders (empty where not needed)."""
    tensors = [likes[key] for key in keys]
    dtype, n = tensors[0].dtype, sum(x.numel() for x in tensors)
    values_mn, rows = _memory(averages, n, dtype)
    values = [list(_owned(row, tensors)) for row in rows]
    remainders: list[list[Tensor]] = [[] for _ in range(averages)]
    remainder_mn = None
    if kernels.needs_remainder(dtype):
        remainder_mn, low_rows = _memory(averages, n, torch.int16)
        halves = [torch.empty_like(x, dtype=torch.int16) for x in tensors]
        remainders = [list(_owned(row, halves)) for row in low_rows]
    scratch_n = None
    if len(keys) > 1:
        # Named, since the default device may be another.
        scratch_n = torch.empty(n, dtype=source_dtype(dtype), device="cpu")
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


def _gathers(scratch_n: Tensor, current: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Neighbours with so few values that torch joins them in one loop, whatever its threads."""
    group: list[Tensor] = []
    start = size = 0
    for x in current:
        if group and size + x.numel() >= kernels.GRAIN:
            yield group, scratch_n[start : start + size]
            group, start, size = [], start + size, 0
        group.append(x)
        size += x.numel()
    yield group, scratch_n[start : start + size]


def _parts(scratch_n: Tensor, likes: Sequence[Tensor]) -> Iterator[Tensor]:
    start = 0
    for like in likes:
        yield scratch_n.as_strided(like.shape, like.stride(), start)
        start += like.numel()


def _dense(tensor: Tensor) -> bool:
    """Whether the values fill a stretch of memory without gap or overlap, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _same_layout(current: Tensor, like: Tensor) -> bool:
    return (
        current.dtype == source_dtype(like.dtype)
        and current.device == like.device
        and current.stride() == like.stride()
    )


def _flat(tensor: Tensor) -> Tensor:
    return tensor.as_strided((tensor.numel(),), (1,))
