"""An averager's state as one level of tensors, for files, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_BY_AVERAGE = ("tensors", "remainder", "refreshed")
"""Parts of the state that hold tensors by average and key."""


def flattened(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of what `Averager.state_dict()` gave, by `part/average/key` or `copied/key`."""
    flat = {f"copied/{key}": x for key, x in state["copied"].items()}
    for part in _BY_AVERAGE:
        for name, row in state[part].items():
            flat |= {f"{part}/{name}/{key}": x for key, x in row.items()}
    return flat


def unflattened(flat: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The state for `Averager.load_state_dict`, from its tensors and its plain values.

    Args:
        flat: What `flattened` gave.
        facts: The state's other parts, `averages` among them.
    """
    state: dict[str, Any] = {**facts, "copied": {}, "refreshed": {}}
    # Also where a part holds no tensor at all: every average has its row.
    state |= {part: {name: {} for name in facts["averages"]} for part in ("tensors", "remainder")}
    for full, tensor in flat.items():
        part, _, rest = full.partition("/")
        if part == "copied":
            state["copied"][rest] = tensor
        else:
            # Names of averages hold no slash.
            name, _, key = rest.partition("/")
            state[part].setdefault(name, {})[key] = tensor
    return state
