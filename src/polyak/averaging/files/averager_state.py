"""The averages inside an averager's state that a training script put into its checkpoint."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from polyak.averaging.files.state_dict_keys import strip_wrappers, tensors_of
from polyak.averaging.kernels import join
from polyak.averaging.saved_weights import SavedWeights

LEFT_OUT = "of the averages: parameters that did not train and second names of tied ones, if any"
"""An averager reads those from its model and does not store them."""


def is_state(content: object) -> bool:
    """Whether this looks like what `Averager.state_dict()` gives."""
    return isinstance(content, Mapping) and {"averages", "tensors"} <= content.keys()


def averages_of(content: Mapping[str, Any]) -> SavedWeights | None:
    """The averages of an averager's state; None for anything else.

    What bfloat16 averages lack to float32 is added; refreshed statistics are in their place.
    """
    rows = content.get("tensors") if is_state(content) else None
    if not isinstance(rows, Mapping):
        return None
    copied = tensors_of(content.get("copied")) or {}
    refreshed = {name: tensors_of(_part(content, "refreshed").get(name)) or {} for name in rows}
    remainder = _part(content, "remainder")
    states = {
        str(name): strip_wrappers({**_whole(row, remainder.get(name)), **copied, **fresh})
        for (name, row), fresh in zip(rows.items(), refreshed.values(), strict=True)
    }
    states = {name: state for name, state in states.items() if state}
    if not states:
        return None
    history = _part(content, "history")
    counts = {key: history.get(key) for key in _COUNTS}
    kinds, folded = _part(content, "averages"), _part(history, "folded")
    manifest = {
        "tool": "polyak",
        "weights": dict.fromkeys(states, "averaged"),
        "averages": {name: kinds.get(name) for name in states},
        "folded": {name: n for name in states if type(n := folded.get(name)) is int},
        "refreshed_batchnorm": [str(name) for name, fresh in refreshed.items() if fresh],
        "left_out": LEFT_OUT,
        **{key: count for key, count in counts.items() if type(count) is int},
    }
    return SavedWeights(states, manifest=manifest)


def banks_in(
    content: object, place: str = "", above: tuple[int, ...] = ()
) -> Iterator[tuple[str, SavedWeights]]:
    """The averages of each averager's state at any depth of a checkpoint, and where it lies.

    Statistics are the averaged ones, and the manifest has `begun`, as `polyak.save` writes it.
    """
    # A pickle may hold itself.
    if not isinstance(content, Mapping) or id(content) in above:
        return
    own = averages_of({**content, "refreshed": {}}) if is_state(content) else None
    if own is not None:
        kinds = {name: kind or {} for name, kind in own.manifest["averages"].items()}
        begun = dict(_part(_part(content, "history"), "begun"))
        yield place, SavedWeights(own, manifest={**own.manifest, "averages": kinds, "begun": begun})
        return
    for key, value in content.items():
        inner = f"{place}.{key}" if place else str(key)
        yield from banks_in(value, inner, (*above, id(content)))


_COUNTS = ("every", "steps", "updates", "skipped")


def _part(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of the state that should be a mapping; a file may hold anything."""
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}


def _whole(row: object, remainder: object) -> dict[str, Tensor]:
    """An average's tensors, with what bfloat16 ones lack to float32."""
    state, low = tensors_of(row) or {}, tensors_of(remainder) or {}
    for key in state.keys() & low.keys():
        split = (state[key].dtype, low[key].dtype) == (torch.bfloat16, torch.int16)
        if split and state[key].shape == low[key].shape:
            state[key] = join(state[key], low[key])
    return state
