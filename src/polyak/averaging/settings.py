"""What an averager can be asked for, checked at the door."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from polyak.averaging.kinds.average import Average
from polyak.averaging.kinds.records import record_fault
from polyak.errors import ConfigError
from polyak.numbers import is_whole

NonFinite = Literal["skip", "raise", "allow"]
_DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def check_settings(
    averages: Sequence[Average],
    faults: Sequence[str],
    *,
    every: int,
    buffers: object,
    dtype: torch.dtype | None,
    device: object,
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
    if not is_whole(every, least=1):
        found.append(f"every is {every!r}; expected an integer >= 1")
    else:
        found += [fault for average in averages if (fault := average.fault_if_kept(every))]
    found += _buffer_faults(buffers)
    if nonfinite not in ("skip", "raise", "allow"):
        found.append(f"nonfinite is {nonfinite!r}; expected 'skip', 'raise' or 'allow'")
    if dtype is not None and dtype not in _DTYPES:
        found.append(
            f"dtype is {dtype!r}; expected torch.float64, torch.float32 or torch.bfloat16 (a split "
            "float32), since another narrow average stands still"
        )
    found += _device_faults(device)
    if found:
        raise ConfigError.of("Averager", found)


def updates_in(total_steps: int | None, *, every: int) -> int | None:
    """Updates of a run of so many optimizer steps; None of a run of unknown length.

    Raises:
        ConfigError: for a run without an update.
    """
    if total_steps is None:
        return None
    least = every if is_whole(every, least=1) else 1
    if not is_whole(total_steps, least=least):
        raise ConfigError(
            f"total_steps is {total_steps!r}; expected optimizer steps of the whole run, an "
            f"integer >= every ({every!r}), or None."
        )
    return total_steps // least


def check_module(model: object) -> None:
    """Refuse what is no module, such as its parameters.

    Raises:
        ConfigError: then.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model is a {type(model).__name__}; expected a torch.nn.Module. "
            "Pass the module itself, not its parameters() or state_dict()."
        )


def _device_faults(device: object) -> list[str]:
    """What torch takes for a device has none, whether the machine has it or not."""
    known = device is None or isinstance(device, torch.device)
    if isinstance(device, str) or is_whole(device, least=0):
        try:
            torch.device(device)
            known = True
        except (RuntimeError, ValueError):
            known = False
    return [] if known else [f"device is {device!r}; expected such as 'cpu', 'cuda:0', or None"]


def _buffer_faults(buffers: object) -> list[str]:
    expected = "expected 'average', 'copy', or a mapping of names to 'average', 'copy' or 'live'"
    if isinstance(buffers, Mapping):
        return [
            f"buffers has {key!r}: {how!r}; {expected}"
            for key, how in buffers.items()
            if not isinstance(key, str) or how not in ("average", "copy", "live")
        ]
    known = isinstance(buffers, str) and buffers in ("average", "copy")
    return [] if known else [f"buffers is {buffers!r}; {expected}"]
