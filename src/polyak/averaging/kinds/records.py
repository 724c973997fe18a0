"""Averages as plain JSON values, and back.

A record is the kind's name with its settings. A kind from outside this package is recorded under
its class's name, to be compared with when an averager goes on; nothing is imported by that name.
"""

import json
from collections.abc import Mapping
from typing import Any

from polyak.averaging.kinds import KINDS, Average
from polyak.errors import ConfigError, unknown


def to_record(average: Average) -> dict[str, Any]:
    """The average as plain JSON values; of a `Schedule`, the name alone.

    Example:
        >>> from polyak.averaging.kinds import Uniform
        >>> to_record(Uniform(start=100))
        {'kind': 'uniform', 'start': 100, 'name': None}
    """
    cls = type(average)
    kind = next((name for name, known in KINDS.items() if known is cls), cls.__name__)
    return {"kind": kind, **average.settings()}


def from_record(record: Mapping[str, Any]) -> Average:
    """The average that `to_record` described.

    Raises:
        ConfigError: for kinds from outside, and for a `Schedule`, whose function no record holds.
    """
    settings = dict(record)
    kind = str(settings.pop("kind", None))
    if kind not in KINDS:
        raise ConfigError(unknown("kind", kind, KINDS))
    if KINDS[kind].has_code:
        raise ConfigError(
            f"the record names the {kind} {settings.get('name')!r}; expected a kind without a "
            f"function of its own. Build {KINDS[kind].__name__}(weight=…, name=…) again."
        )
    return KINDS[kind].from_settings(settings)


def is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record is all of an average; not of one whose code is somebody's own."""
    kind = KINDS.get(str(record.get("kind")))
    return kind is not None and not kind.has_code


def record_fault(average: Average) -> str | None:
    """Why an average of a kind from outside could not be saved; None if it can."""
    cls = type(average)
    if cls in KINDS.values():
        return None
    if cls.__name__ in KINDS:
        return (
            f"the class of {average.label!r} is called {cls.__name__!r}, as a kind of polyak's is "
            "in records; expected another name"
        )
    try:
        settings = average.settings()
        if json.loads(json.dumps(settings)) == settings and "kind" not in settings:
            return None
    except (TypeError, ValueError):
        pass
    return (
        f"the settings of {average.label!r} are no plain JSON values; expected a frozen dataclass "
        "of numbers, text and None, without a field called 'kind', or settings() and "
        f"from_settings() of {cls.__name__}'s own"
    )
