"""The arithmetic of an update.

Shape suffixes: m averages, n values.
"""

from collections.abc import Mapping, Sequence
from math import isfinite

import torch
from torch import Tensor

from polyak.errors import ConfigError, quote

TILE = 262_144
"""Values of a weight that are taken through all averages before the next ones: 1 MB stays in
cache."""

GRAIN = 32_768
"""Values from which torch divides a call among threads, which costs more than so few values do."""

SMALLEST = 512
"""Values of a piece below which calls cost more than threads."""

SPLIT_TILE = 16_384
"""The same as `TILE` where float32 copies of the averages are needed on the way."""

Pieces = Sequence[tuple[Tensor, Tensor]]
"""Values, each with those that they meet: averages with what they move towards, say."""


def lerp_block(pieces: Pieces, weight: Tensor | float) -> None:
    """m ← m + w·(x − m) for the averages of a block, in place.

    Args:
        pieces: What `pieces_of` gave.
        weight: Lerp weight w in [0, 1]: one number for a single average, else of shape (m, 1) and
            in the dtype of the averages. Both give the same bits.
    """
    for values, source_n in pieces:
        values.lerp_(source_n, weight)


def pieces_of(values_mn: Tensor, source_n: Tensor, *, packed: bool = False) -> Pieces:
    """Averages and current weights cut so that each weight is read from memory once.

    Of a single average the rows are vectors, for which a lerp weight may be a number.

    Args:
        values_mn: The averages.
        source_n: The current weights x, in the same dtype.
        packed: Whether they are several small weights. Then no piece is so large that torch
            divides it among threads, as it would do with none of them alone.
    """
    count, n = values_mn.shape
    if packed:
        tile = max(SMALLEST, (GRAIN - 1) // max(1, count))
    else:
        tile = TILE if count > 1 else max(1, n)
    rows = values_mn if count != 1 else values_mn[0]
    cuts = [slice(start, start + tile) for start in range(0, n, tile)]
    return [(rows[..., cut], source_n[cut]) for cut in cuts]


def lerp_split(
    values_mn: Tensor, remainder_mn: Tensor, source_n: Tensor, weight_m1: Tensor
) -> None:
    """The same for averages kept as bfloat16 and the rest of a float32.

    Args:
        values_mn: The averages, bfloat16.
        remainder_mn: What is missing to float32, int16; see `split`.
        source_n: The current weights x, float32.
        weight_m1: Lerp weights, float32.
    """
    for start in range(0, source_n.numel(), SPLIT_TILE):
        tile = slice(start, start + SPLIT_TILE)
        m = join(values_mn[:, tile], remainder_mn[:, tile]).lerp_(source_n[tile], weight_m1)
        values_mn[:, tile], remainder_mn[:, tile] = split(m)


def averageable(tensor: Tensor) -> bool:
    """Whether a tensor holds real or complex numbers, densely; of whole ones there is no mean."""
    number = tensor.is_floating_point() or tensor.is_complex()
    return number and tensor.layout is torch.strided


STATISTICS = ("running_mean", "running_var")
"""What BatchNorm calls the statistics that averages hold."""


def is_statistic(key: str) -> bool:
    """Whether a weight of this name is one of BatchNorm's statistics."""
    return key.rpartition(".")[2] in STATISTICS


def refuse_negative_variances(state: Mapping[str, Tensor], *, remedy: str) -> None:
    """Refuse sums in which negative shares have made a variance negative.

    Raises:
        ConfigError: naming them.
    """
    variances = {k: x for k, x in state.items() if k.rpartition(".")[2] == STATISTICS[1]}
    if bad := [key for key, x in variances.items() if bool((x < 0).any())]:
        raise ConfigError(
            f"{quote(bad)} would be negative by the negative shares; expected variances >= 0. "
            f"{remedy}, and recompute them with polyak.refresh_batchnorm."
        )


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 where a dtype is too narrow to average in, else the dtype itself.

    At d = 0.998 a bfloat16 average never moves: 1 − d is below half a unit in its last place.
    complex64 likewise for complex numbers of half precision.
    """
    if dtype is torch.complex32:
        return torch.complex64
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def needs_remainder(dtype: torch.dtype) -> bool:
    """Whether averages in `dtype` need a remainder: alone they would stand still."""
    return dtype == torch.bfloat16


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """float32 as the nearest bfloat16, and 16 bits that bring the float32 back exactly.

        bits = 2^16·high + low,   high = ⌊(bits + 2^15) / 2^16⌋,   −2^15 ≤ low < 2^15

    The first can be used as it is; together they cost what a float32 costs.

    Example:
        >>> high, low = split(torch.tensor([1.001]))
        >>> high.item(), round(join(high, low).item(), 6)
        (1.0, 1.001)
    """
    bits = values.contiguous().view(torch.int32)
    high = (bits + 0x8000) >> 16
    low = (bits - (high << 16)).to(torch.int16)
    return high.to(torch.int16).view(torch.bfloat16), low


def join(high: Tensor, low: Tensor) -> Tensor:
    """The float32 of `split`, as new memory."""
    bits = high.view(torch.int16).to(torch.int32) << 16
    return bits.add_(low).view(torch.float32)


def lerp_all(
    averages: Sequence[Sequence[Tensor]],
    current: Sequence[Tensor],
    weights: Sequence[float],
    *,
    keep: Tensor | None = None,
) -> None:
    """Move every average towards the current tensors, in place, wherever they are.

        m_ji ← m_ji + w_j·(x_i − m_ji)

    Args:
        averages: For each average j its tensors, in the order of `current`.
        current: The current weights x_i. Where dtype or device differ from the averages', each is
            converted once for all averages.
        weights: Lerp weight w_j of each average, in [0, 1].
        keep: 0-dim bool on a device: whether to move at all. The host does not wait for it, but
            a lerp weight on a device costs one launch a tensor instead of one for all.
    """
    if not current or not averages:
        return None
    if keep is not None:
        return _lerp_if(keep, averages, current, weights)
    sources = [x.detach().to(m) for x, m in zip(current, averages[0], strict=True)]
    rows = [row for average in averages for row in average]
    lerp_weights = [w for w in weights for _ in sources]
    torch._foreach_lerp_(rows, sources * len(averages), lerp_weights)
    return None


def _lerp_if(
    keep: Tensor,
    averages: Sequence[Sequence[Tensor]],
    current: Sequence[Tensor],
    weights: Sequence[float],
) -> None:
    gates: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for number, x in enumerate(current):
        rows = [average[number] for average in averages]
        place = (rows[0].device, rows[0].dtype)
        if place not in gates:
            factor = keep.to(rows[0])
            gates[place] = [w * factor for w in weights]
        source = zero_unless(x.detach().to(rows[0]), keep)
        torch._foreach_lerp_(rows, [source] * len(rows), gates[place])


def zero_unless(tensor: Tensor, keep: Tensor) -> Tensor:
    """A copy of the tensor, or zeros where it must not count: 0·NaN would be NaN."""
    return tensor.masked_fill(~keep.to(tensor.device), 0)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity; reads every value, writes nothing.

    A sum is not finite if a term is not. The reverse fails where finite terms overflow, so
    only a suspicious tensor is looked at value by value.
    """
    if not tensors:
        return True
    # One look at all sums together, so that a device is waited for once.
    sums = torch.stack([_sum(x).to(tensors[0].device, torch.float64) for x in tensors])
    if bool(torch.isfinite(sums.sum())):
        return True
    suspects = zip(tensors, torch.isfinite(sums).tolist(), strict=True)
    return all(fine or bool(torch.isfinite(x).all()) for x, fine in suspects)


def halves_of(tensor: Tensor) -> Pieces | None:
    """Pairs of vectors that are all values of a tensor, for `finite_products`; None if it cannot.

    What lies between the values of a tensor with gaps is seen, too, unless that is much more.
    """
    x = tensor.detach()
    plain = type(x) is Tensor and x.layout is torch.strided and x.device.type == "cpu"
    if not plain or x.dtype not in (torch.float32, torch.float64) or not x.numel():
        return None
    pairs = zip(x.shape, x.stride(), strict=True)
    reach = 1 + sum((size - 1) * stride for size, stride in pairs)
    if reach > _GAPS * x.numel():
        return None
    half = (reach + 1) // 2
    whole = x.as_strided((reach,), (1,))
    # The value in the middle of an odd number is in both.
    first, second = whole[:half], whole[reach - half :]
    # Threads pay for a large tensor alone: a pack holds up to a tile.
    tile = _UNDIVIDED if reach <= TILE else half
    cuts = [slice(start, start + tile) for start in range(0, half, tile)]
    return [(first[cut], second[cut]) for cut in cuts]


_UNDIVIDED = 8_000
"""Values of two vectors that a BLAS multiplies without dividing them among threads."""

_GAPS = 4
"""How many times a tensor's values may be read to see all of them in one go."""


def finite_products(pairs: Pieces) -> bool:
    """Whether the sum of a·b over pairs of vectors is finite: if so, all of their values are.

        NaN·b = NaN,   ±∞·0 = NaN,   ±∞·b = ±∞,   and no further term makes a sum finite again

    The reverse fails where finite terms overflow. Each value is read once, two streams at a
    time, which is a quarter faster than a sum.
    """
    total = 0.0
    for a, b in pairs:
        total += torch.dot(a, b).item()
    return isfinite(total)


def finite_flag(tensors: Sequence[Tensor]) -> Tensor:
    """The same as a 0-dim bool where the first tensor is; the host waits for nothing.

    The largest magnitude of each tensor cannot overflow, and it is NaN where a value is.
    """
    flat = [torch.view_as_real(x) if x.is_complex() else x for x in tensors if x.numel()]
    if not flat:
        return torch.tensor(True, device="cpu")
    largest = torch._foreach_norm([x.detach() for x in flat], float("inf"))
    return torch.isfinite(torch.stack([x.to(flat[0].device, torch.float64) for x in largest])).all()


def _sum(tensor: Tensor) -> Tensor:
    x = tensor.detach()
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.sum(dtype=wide(x.dtype))
