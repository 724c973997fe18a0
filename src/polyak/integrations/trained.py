"""The weights that were trained, kept beside those of an average that is saved as the model."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from polyak.averaging import Averager
from polyak.averaging.model.sharded import is_sharded
from polyak.integrations.shards import spread

RAW = "raw"
"""Where a state keeps them."""


def trained(averager: Averager) -> dict[str, Tensor]:
    """A model's own weights, as far as an average may differ from them: all that is not frozen."""
    [averaged, *_] = averager.state_dict()["tensors"].values()
    frozen = {name for name, _ in averager.model.named_parameters()} - averaged.keys()
    state = averager.model.state_dict()
    # An average is lent by writing it into the very memory of shards.
    return {
        name: x.clone() if is_sharded(x) else x
        for name, x in state.items()
        if isinstance(x, Tensor) and name not in frozen
    }


def put_back(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Let a model that was loaded from an average hold the weights that were trained."""
    if RAW in state:
        model.load_state_dict(spread(state[RAW], model.state_dict()), strict=False)
