"""Moments at which counting, averaging or saving would give a wrong result."""

import torch
from torch import nn

from polyak.averaging.model import swap
from polyak.errors import StateError


def refuse_now(call: str, model: nn.Module) -> None:
    """Refuse a call while the model holds an average, or a CUDA graph is captured.

    Raises:
        StateError: then.
    """
    if swap.holds_lent_weights(model):
        raise StateError(
            f"{call} was called while the model holds an average; expected its own weights. "
            "Leave the `applied` block first."
        )
    # torch leaves it without types.
    begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if begun and torch.cuda.is_current_stream_capturing():
        raise StateError(
            f"{call} was called while a CUDA graph is captured; expected outside of it, since "
            "replays call no Python. Attach no optimizer that the graph steps, and call "
            "averager.step() after each replay."
        )
