"""The arithmetic of an update.

Shape suffixes: m averages, n values.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from polyak.averaging.inventory import wide

TILE = 262_144
"""Values of a weight that are taken through all averages before the next ones: 1 MB stays in
cache."""

COMPENSATED_TILE = 16_384
"""The same where float32 copies of the averages are needed on the way."""


def lerp_block(values_mn: Tensor, source_n: Tensor, weight_m1: Tensor) -> None:
    """m ← m + w·(x − m) for all averages of a block, in place.

    Args:
        values_mn: The averages.
        source_n: The live weights x, in the same dtype.
        weight_m1: Lerp weight w of each average, in [0, 1], in the same dtype.
    """
    for start in range(0, source_n.numel(), TILE):
        tile = slice(start, start + TILE)
        values_mn[:, tile].lerp_(source_n[tile], weight_m1)


def lerp_compensated(
    values_mn: Tensor, compensation_mn: Tensor, source_n: Tensor, weight_m1: Tensor
) -> None:
    """The same for averages in a narrow dtype, with what rounding cut off carried along.

        y = w·(x − m) − c,   m' = round(m + y),   c' = (m' − m) − y

    Args:
        values_mn: The averages m.
        compensation_mn: Their errors c, in the same dtype.
        source_n: The live weights x, float32.
        weight_m1: Lerp weights, float32.

    Source:
        Kahan 1965, compensated summation.
    """
    for start in range(0, source_n.numel(), COMPENSATED_TILE):
        tile = slice(start, start + COMPENSATED_TILE)
        m, c = compensated(values_mn[:, tile], compensation_mn[:, tile], source_n[tile], weight_m1)
        values_mn[:, tile], compensation_mn[:, tile] = m, c


def compensated(m: Tensor, c: Tensor, x: Tensor, w: Tensor | float) -> tuple[Tensor, Tensor]:
    """The next m and c of `lerp_compensated`, in their dtype; nothing is written."""
    before = m.float()
    y = (x.float() - before).mul_(w).sub_(c)
    after = (before + y).to(m.dtype)
    return after, (after.float() - before).sub_(y).to(c.dtype)


def needs_compensation(dtype: torch.dtype) -> bool:
    """Whether an average in `dtype` would stand still without compensation."""
    return dtype == torch.bfloat16


def lerp_all(
    averages: Sequence[Sequence[Tensor]], live: Sequence[Tensor], weights: Sequence[float]
) -> None:
    """Move every average towards the live tensors, in place, wherever they are.

        m_ji ← m_ji + w_j·(x_i − m_ji)

    Args:
        averages: For each average j its tensors, in the order of `live`.
        live: The current weights x_i. Where dtype or device differ from the averages', each is
            converted once for all averages.
        weights: Lerp weight w_j of each average, in [0, 1].
    """
    if not live or not averages:
        return
    sources = [x.detach().to(m) for x, m in zip(live, averages[0], strict=True)]
    rows = [row for average in averages for row in average]
    lerp_weights = [w for w in weights for _ in sources]
    torch._foreach_lerp_(rows, sources * len(averages), lerp_weights)


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


def _sum(tensor: Tensor) -> Tensor:
    x = tensor.detach()
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.sum(dtype=wide(x.dtype))
