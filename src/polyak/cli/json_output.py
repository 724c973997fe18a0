"""What --json prints: one object on stdout, with the name and version of its schema.

docs/json.md describes each; a test holds it against what commands print.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

VERSION = 1
"""Of all schemas. A key that is new leaves it, a change of another key raises it."""


def print_json(schema: str, values: Mapping[str, Any]) -> None:
    """Print the object of a command.

    Args:
        schema: Such as "polyak-list".
        values: JSON values, paths and tuples among them; what is not finite becomes null.

    Example:
        >>> print_json("polyak-example", {"loss": float("nan"), "page": Path("out")})
        {
         "schema": "polyak-example",
         "version": 1,
         "loss": null,
         "page": "out"
        }
    """
    whole = {"schema": schema, "version": VERSION, **_plain(values)}
    sys.stdout.write(json.dumps(whole, indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(x) for key, x in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(x) for x in value]
    return None if isinstance(value, float) and not isfinite(value) else value
