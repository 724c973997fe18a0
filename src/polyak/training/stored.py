"""The weights that a finished run kept, read back from its folder."""

from typing import Any

from polyak.averaging import load as load_weights
from polyak.errors import FileError, StateError, unknown
from polyak.records.runs import RunFolder
from polyak.records.vocabulary import BASELINE


def kept_arms(folder: RunFolder) -> list[str]:
    """The arms whose weights a finished run kept, sorted.

    Raises:
        StateError: if the run has not ended, or diverged.
    """
    if folder.ending != "done":
        raise StateError(
            f"the run in {folder.path} is {folder.ending or 'not finished'}; expected one that is "
            "done. Its averages are written when it ends."
        )
    return sorted(path.stem for path in folder.arm(BASELINE).parent.glob("*.safetensors"))


def arm_weights(folder: RunFolder, arm: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dict of an arm, and what its file says of it: source, epoch, rule.

    Raises:
        FileError: if the run kept no such arm, or its file is damaged.
    """
    if not folder.arm(arm).exists():
        raise FileError(unknown("arm", arm, kept_arms(folder)))
    saved = load_weights(folder.arm(arm))
    return saved[arm], saved.manifest
