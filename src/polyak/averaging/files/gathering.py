"""Whole averages of a sharded model, on one process."""

from collections.abc import Sequence

import torch
from torch import Tensor

from polyak.averaging.averager import Averager
from polyak.averaging.files.averages import SavedWeights, manifest_of
from polyak.averaging.model import sharded


@torch.no_grad()
def gathered(
    averager: Averager, names: Sequence[str] | None = None, *, rank: int = 0
) -> SavedWeights:
    """Averages as whole tensors in the memory of one process's host, ready for `polyak.save`.

    A collective: every process must call it. Weight after weight is gathered, so that no device
    and no other process ever holds more than one.

    Args:
        averager: Of a sharded model, or of a plain one.
        names: Which averages; None means all.
        rank: Global rank of the process that gets them.

    Returns:
        State dicts by name with a manifest; without any name on all other processes.

    Example:
        >>> averager = Averager(torch.nn.Linear(2, 1), [0.9])
        >>> list(gathered(averager)["ema_0.9"])
        ['weight', 'bias']
    """
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    mine = not spread or torch.distributed.get_rank() == rank
    chosen = averager.names if names is None else tuple(names)
    found: dict[str, dict[str, Tensor]] = {}
    for name in chosen:
        whole = {key: _whole(x, keep=mine) for key, x in averager.tensors(name).items()}
        if mine:
            found[name] = {key: x for key, x in whole.items() if x is not None}
    return SavedWeights(found, manifest=manifest_of(averager, found))


def _whole(tensor: Tensor, *, keep: bool) -> Tensor | None:
    full = tensor.full_tensor() if sharded.is_sharded(tensor) else tensor
    return full.cpu() if keep else None
