"""An averager's state in a file of tensors and JSON, from which it goes on exactly."""

import os
from typing import Any

from torch import Tensor

from polyak.averaging import Averager, load, save
from polyak.errors import FileError

FORMAT = 1
_STATE = "averager"
_BY_AVERAGE = ("tensors", "remainder", "refreshed")
"""Parts of an averager's state that hold tensors by average and key."""


def save_state(averager: Averager, path: str | os.PathLike[str]) -> None:
    """Write everything that an exact continuation needs, atomically, as safetensors.

    Raises:
        StateError: while an average is applied.
    """
    state = averager.state_dict()
    tensors: dict[str, Tensor] = {f"copied/{key}": x for key, x in state["copied"].items()}
    for part in _BY_AVERAGE:
        for name, row in state[part].items():
            tensors |= {f"{part}/{name}/{key}": x for key, x in row.items()}
    facts = {"format": FORMAT, **{key: state[key] for key in ("history", "averages", "dtypes")}}
    save({_STATE: tensors}, path, manifest={_STATE: facts})


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_state` wrote, for `Averager.load_state_dict`; every tensor is checked.

    Raises:
        FileError: if the file is damaged or not one of these.
    """
    saved = load(path)
    facts = saved.manifest.get(_STATE)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise FileError(
            f"{os.fspath(path)} is no averager's state of format {FORMAT}; expected one. "
            "Pass a file that was saved beside a checkpoint."
        )
    state: dict[str, Any] = {key: facts[key] for key in ("history", "averages", "dtypes")}
    state |= {"copied": {}, "refreshed": {}}
    state |= {part: {name: {} for name in state["averages"]} for part in ("tensors", "remainder")}
    for full, tensor in saved[_STATE].items():
        part, _, rest = full.partition("/")
        if part == "copied":
            state["copied"][rest] = tensor
        else:
            # Names of averages hold no slash.
            name, _, key = rest.partition("/")
            state[part].setdefault(name, {})[key] = tensor
    return state
