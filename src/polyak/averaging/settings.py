"""What an averager can be asked for, checked at the door."""

from collections.abc import Iterable
from typing import Any, Literal

import torch

from polyak.averaging.kinds import Average, as_average
from polyak.errors import ConfigError

NonFinite = Literal["skip", "raise", "allow"]
_DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def checked(
    averages: Iterable[float | Average],
    *,
    every: int,
    buffers: str,
    dtype: torch.dtype | None,
    nonfinite: str,
) -> list[Average]:
    """The averages as kinds.

    Raises:
        ConfigError: with every fault of every setting in one message.
    """
    kinds, faults = _kinds(averages)
    faults += _name_faults([kind.label for kind in kinds])
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        faults.append(f"every is {every!r}; expected an integer >= 1")
    if buffers not in ("average", "copy"):
        faults.append(f"buffers is {buffers!r}; expected 'average' or 'copy'")
    if nonfinite not in ("skip", "raise", "allow"):
        faults.append(f"nonfinite is {nonfinite!r}; expected 'skip', 'raise' or 'allow'")
    if dtype is not None and dtype not in _DTYPES:
        faults.append(
            f"dtype is {dtype}; expected float64, float32 or bfloat16 (a split float32), since "
            "another narrow average stands still"
        )
    if faults:
        raise ConfigError.of("Averager", faults)
    return kinds


def _kinds(averages: Any) -> tuple[list[Average], list[str]]:
    """The averages that are well-formed, and what is wrong with the others."""
    if isinstance(averages, str) or not isinstance(averages, Iterable):
        return [], [f"averages is {averages!r}; expected a list of decays or kinds"]
    kinds: list[Average] = []
    faults: list[str] = []
    for value in averages:
        try:
            kinds.append(as_average(value))
        except ConfigError as error:
            faults.append(str(error).rstrip("."))
    if not kinds and not faults:
        faults.append("averages is empty; expected at least one decay or kind")
    return kinds, faults


def _name_faults(labels: list[str]) -> list[str]:
    twice = sorted({label for label in labels if labels.count(label) > 1})
    faults = [
        f"the name {label!r} is given twice; pass name= to tell them apart" for label in twice
    ]
    # A file of averages separates the average's name from the weight's by a slash.
    slashed = sorted({label for label in labels if "/" in label})
    return faults + [f"the name is {label!r}; expected one without '/'" for label in slashed]
