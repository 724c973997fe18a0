"""How long a command may take: --time-limit."""

import re
from collections.abc import Callable
from typing import TypeVar

from polyak.errors import ConfigError
from polyak.training.interruption import Interruption

T = TypeVar("T")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_CENTURY = 100 * 365.25 * 86400
"""Longer ones are slips, and no clock counts that far."""


def seconds_of(limit: str | None) -> float | None:
    """A duration such as 9m, 1h30m, 45s or 90 (seconds), in seconds; None stays None.

    A number without a unit after another one is of the next smaller: 1h30 is 1h30m.

    Raises:
        ConfigError: for anything else, and for more than a century.

    Example:
        >>> seconds_of("1h30m"), seconds_of("45")
        (5400.0, 45.0)
    """
    if limit is None:
        return None
    whole = re.sub(r"(?<=h)(\d{1,9})$", r"\1m", limit)
    found = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", whole)
    parts = found.groups() if found else ()
    total = sum(int(n or 0) * unit for n, unit in zip(parts, _UNITS.values(), strict=False))
    if not 0 < total < _CENTURY:
        raise ConfigError(
            f"time_limit is {limit!r}; expected a duration such as 9m, 1h30m or 45s. Change it."
        )
    return total


def within(limit: Interruption, call: Callable[[T], None]) -> Callable[[T], None]:
    """`call`, but an InterruptedRun once the time is up."""

    def checked(value: T) -> None:
        if limit.made:
            raise limit.error()
        call(value)

    return checked
