"""What decides how a computation rounds: only where it is the same can a run go on bit for bit."""

import platform
from pathlib import Path
from typing import Any

import torch


def environment(device: torch.device) -> dict[str, Any]:
    """Facts of this machine and process, as plain JSON values."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": gpu or device.type,
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory format": "channels last",
        "evaluation": "folded",
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was, one phrase each."""
    return [
        f"{name} {then.get(name)!r} (here {now.get(name)!r})"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _processor() -> str:
    """The processor's model; Python itself knows little more than "x86_64" on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
