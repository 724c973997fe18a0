"""States of which processes hold shards: made whole for one file, and spread again."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from polyak.averaging.model.sharded import is_sharded


def is_spread(model: nn.Module) -> bool:
    """Whether processes hold shards of the model's weights."""
    return any(is_sharded(x) for x in model.state_dict().values())


def gathered(state: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """A state with whole tensors instead of shards, in host memory; nothing unless `keep`.

    Every process must call it. Weight after weight is gathered.
    """
    found = {name: _gathered(x, keep=keep) for name, x in state.items()}
    return found if keep else {}


def spread(state: Mapping[str, Any], likes: Mapping[str, Any]) -> dict[str, Any]:
    """A state whose whole tensors are spread as those of the same names in `likes`; sends nothing.

    Every process must have all of the state.
    """
    return {name: _spread(x, likes.get(name)) for name, x in state.items()}


def _gathered(value: Any, *, keep: bool) -> Any:
    if isinstance(value, Mapping):
        return {name: _gathered(x, keep=keep) for name, x in value.items()}
    if is_sharded(value):
        whole = value.full_tensor()
        return whole.cpu() if keep else None
    return value


def _spread(value: Any, like: Any) -> Any:
    if isinstance(value, Mapping):
        return spread(value, like if isinstance(like, Mapping) else {})
    if not isinstance(value, Tensor) or not is_sharded(like) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    there = value.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)
