"""What an averager can be asked for, checked at the door."""

from collections.abc import Sequence
from typing import Literal

import torch

from polyak.averaging.kinds.average import Average
from polyak.averaging.kinds.records import record_fault
from polyak.errors import ConfigError

NonFinite = Literal["skip", "raise", "allow"]
_DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def check_settings(
    averages: Sequence[Average],
    faults: Sequence[str],
    *,
    every: int,
    buffers: str,
    dtype: torch.dtype | None,
    nonfinite: str,
) -> None:
    """Refuse settings outside their range.

    Args:
        averages: Those that are well-formed.
        faults: What is wrong with the others; see `as_averages`.
        every: And the rest, as given to `Averager`.

    Raises:
        ConfigError: with every fault of every setting in one message.
    """
    found = [*faults, *(fault for average in averages if (fault := record_fault(average)))]
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        found.append(f"every is {every!r}; expected an integer >= 1")
    if buffers not in ("average", "copy"):
        found.append(f"buffers is {buffers!r}; expected 'average' or 'copy'")
    if nonfinite not in ("skip", "raise", "allow"):
        found.append(f"nonfinite is {nonfinite!r}; expected 'skip', 'raise' or 'allow'")
    if dtype is not None and dtype not in _DTYPES:
        found.append(
            f"dtype is {dtype}; expected float64, float32 or bfloat16 (a split float32), since "
            "another narrow average stands still"
        )
    if found:
        raise ConfigError.of("Averager", found)
