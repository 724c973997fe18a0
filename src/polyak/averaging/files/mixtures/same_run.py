"""Whether files say that they are of one run."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from polyak.averaging.files.file_format import Path
from polyak.errors import StateError, few, printable

ORIGIN = ("run", "seed")
"""What manifests say of where weights come from; training's own files always do."""


def origin(manifest: Mapping[str, Any]) -> dict[str, set[str | int]]:
    """The runs and the seeds that a file says it is of."""
    found: dict[str, set[str | int]] = {}
    for key in ORIGIN:
        said = manifest.get(key)
        every = said if isinstance(said, list) else [said]
        found[key] = {x for x in every if isinstance(x, str | int)}
    return found


def refuse_others(
    files: Sequence[Path],
    origins: Sequence[Mapping[str, set[str | int]]],
    *,
    remedy: str = "Leave it out.",
) -> None:
    """Refuse the last file if it is of another run or seed than one before it."""
    last = origins[-1]
    for key in ORIGIN:
        for path, origin in zip(files, origins[:-1], strict=False):
            if last[key] and origin[key] and last[key] != origin[key]:
                raise StateError(
                    f"{os.fspath(files[len(origins) - 1])} is of {key} {_words(last[key])}, "
                    f"{os.fspath(path)} of {key} {_words(origin[key])}; expected files of one run. "
                    f"{remedy}"
                )


def _words(values: Collection[str | int]) -> str:
    return few([printable(str(value)) for value in values])
