"""Weight averaging for PyTorch, and the laboratory that shows what it buys.

averager = polyak.Averager(model, [0.968, 0.984, 0.992, 0.996, 0.998], every=16)
averager.attach(optimizer)
...
with averager.applied("ema_0.998"):
    evaluate(model)
"""

from importlib import import_module
from types import ModuleType

from polyak.averaging import (
    EMA,
    Average,
    Averager,
    Exponential,
    HalfLifeRamp,
    InverseGamma,
    PowerEMA,
    Ratio,
    SavedWeights,
    Schedule,
    Uniform,
    Update,
    Window,
    gathered,
    load,
    merge,
    profile,
    read_foreign,
    refresh_batchnorm,
    save,
    synthesize,
)

__version__ = "0.1.0"
__all__ = [
    "Averager",
    # Kinds of averages, and what an EMA's warm-up may be.
    "Average",
    "EMA",
    "PowerEMA",
    "Schedule",
    "Uniform",
    "Update",
    "Window",
    "Exponential",
    "HalfLifeRamp",
    "InverseGamma",
    "Ratio",
    # Files of weights.
    "SavedWeights",
    "gathered",
    "load",
    "merge",
    "read_foreign",
    "save",
    "synthesize",
    # The rest.
    "metrics",
    "profile",
    "refresh_batchnorm",
    "runs",
]


def __getattr__(name: str) -> ModuleType:
    """`polyak.metrics` and `polyak.runs`, imported when they are first asked for."""
    if name == "metrics":
        return import_module("polyak.metrics")
    if name == "runs":
        return import_module("polyak.runs")
    raise AttributeError(f"module 'polyak' has no attribute {name!r}")
