"""What a run meets on its machine: how computations round there, and how memory is given back.

Only where they round the same can a run go on bit for bit.
"""

import ctypes
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


LAYOUTS = {torch.channels_last: "channels last", torch.contiguous_format: "contiguous"}


def environment(
    device: torch.device, *, memory_format: torch.memory_format = torch.channels_last
) -> dict[str, Any]:
    """Facts of this machine and process, as plain JSON values.

    Args:
        device: Where a run computes.
        memory_format: The layout of its images and weights there.
    """
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": gpu or device.type,
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "layout": LAYOUTS[memory_format],
        "evaluation": "folded",
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was, one phrase each.

    Checkpoints of the first round say nothing of the layout: their "memory format" is a constant,
    whatever was used.
    """
    then = {name: value for name, value in then.items() if name != "memory format"}
    then.setdefault("layout", now.get("layout"))
    return [
        f"{name} {then.get(name)!r} (here {now.get(name)!r})"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def memory_format_for(
    model: nn.Module, *, image_size: int, device: torch.device
) -> torch.memory_format:
    """The layout in which a network trains: channels last, which is faster, where it is safe.

    On a CPU with AVX-512 and torch 2.13 training narrow networks on images of 64 pixels in that
    layout ended in segmentation faults: ResNet-8 of width 4 at batch 8, of width 8 at batch 128;
    not of width 12 or 16, and not at 32 pixels. The cause is not known.
    """
    narrow = any(isinstance(m, nn.Conv2d) and m.out_channels < 16 for m in model.modules())
    if device.type == "cpu" and narrow and image_size > 32:
        return torch.contiguous_format
    return torch.channels_last


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for the next batch, instead of handing it to the system.

    Activations are large, so glibc gives them back after every batch and the system fills the
    next ones with zeros, page by page: a fifth of the time of an evaluation on a CPU. The peak
    of the process stays as it was; what it computes does not change by a bit.

    Returns:
        Whether the C library took the settings; only glibc knows them.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    largest = 2**31 - 1
    return bool(mallopt(_M_TRIM_THRESHOLD, largest) and mallopt(_M_MMAP_THRESHOLD, largest))


def _processor() -> str:
    """The processor's model; Python itself knows little more than "x86_64" on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
