"""The arithmetic of an update: all averages of all tensors in a handful of calls."""

from collections.abc import Sequence

import torch
from torch import Tensor

from polyak.averaging.inventory import wide


def lerp_all(
    averages: Sequence[Sequence[Tensor]], live: Sequence[Tensor], weights: Sequence[float]
) -> None:
    """Move every average towards the live tensors, in place.

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
    finite = torch.isfinite(sums).tolist()
    suspects = [x for x, fine in zip(tensors, finite, strict=True) if not fine]
    return all(bool(torch.isfinite(x).all()) for x in suspects)


def _sum(tensor: Tensor) -> Tensor:
    x = tensor.detach()
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.sum(dtype=wide(x.dtype))
