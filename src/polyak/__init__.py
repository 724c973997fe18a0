"""Weight averaging for PyTorch, and the laboratory that shows what it buys.

averager = polyak.Averager(model, 0.999)
averager.attach(optimizer)
...
with averager.applied():
    evaluate(model)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyak import averaging as averaging
    from polyak import metrics as metrics
    from polyak.averaging import (
        EMA,
        Average,
        Averager,
        CosineEMA,
        Exponential,
        HalfLifeRamp,
        HardCopy,
        InverseGamma,
        PowerEMA,
        Ratio,
        SavedWeights,
        Schedule,
        Uniform,
        Update,
        Window,
        as_steps,
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
    "CosineEMA",
    "EMA",
    "HardCopy",
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
    "as_steps",
    "profile",
    "refresh_batchnorm",
    "runs",
]


_MODULES = ("averaging", "checksums", "errors", "files", "metrics", "runs")


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: the command's help needs no torch."""
    if name in _MODULES:
        return import_module(f"polyak.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'polyak' has no attribute {name!r}")
    value = getattr(import_module("polyak.averaging"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
