"""An averager's state in a file of tensors and JSON, from which it goes on exactly."""

import os
from typing import Any

from polyak.averaging import Averager, load, save
from polyak.averaging.storage.state_dict import flattened, unflattened
from polyak.errors import FileError
from polyak.integrations.trained import RAW, trained

FORMAT = 1
_STATE = "averager"
_FACTS = ("history", "averages", "dtypes", "buffers")
"""Of these the last is not in files of early versions."""


def save_state(averager: Averager, path: str | os.PathLike[str], *, raw: bool = False) -> None:
    """Write everything that an exact continuation needs, atomically, as safetensors.

    Args:
        averager: Of any model.
        path: The file.
        raw: Whether to add the model's own weights, which are elsewhere if an average is saved as
            the model.

    Raises:
        StateError: while an average is applied.
    """
    state = averager.state_dict()
    facts = {"format": FORMAT, **{key: state[key] for key in _FACTS}}
    own = {RAW: trained(averager)} if raw else {}
    save({_STATE: flattened(state), **own}, path, manifest={_STATE: facts})


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_state` wrote, for `Averager.load_state_dict`; every tensor is checked.

    The model's own weights are beside the rest under "raw", if they were written.

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
    parts = {key: facts[key] for key in _FACTS if key in facts}
    own = {RAW: saved[RAW]} if RAW in saved else {}
    return {**unflattened(saved[_STATE], parts), **own}
