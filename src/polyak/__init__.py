"""Weight averaging for PyTorch, and the laboratory that shows what it buys.

averager = polyak.Averager(model, 0.999)
averager.attach(optimizer)
...
with averager.applied():
    evaluate(model)
"""

from typing import TYPE_CHECKING

from polyak.lazy import lazily

if TYPE_CHECKING:
    from polyak import averaging as averaging
    from polyak import metrics as metrics
    from polyak.averaging import (
        EMA,
        Annealed,
        Average,
        Averager,
        Board,
        Combination,
        CosineEMA,
        Exponential,
        HalfLifeRamp,
        HardCopy,
        Initial,
        InverseGamma,
        PowerEMA,
        Ratio,
        SavedWeights,
        Schedule,
        Uniform,
        Update,
        Window,
        as_steps,
        board,
        gathered,
        load,
        merge,
        profile,
        read_foreign,
        refresh_batchnorm,
        save,
        synthesize,
        synthesize_post_hoc,
    )

__version__ = "0.1.0"
__all__ = [
    "Averager",
    # Kinds of averages, and what an EMA's warm-up may be.
    "Annealed",
    "Average",
    "Combination",
    "CosineEMA",
    "EMA",
    "HardCopy",
    "Initial",
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
    "Board",
    "SavedWeights",
    "board",
    "gathered",
    "load",
    "merge",
    "read_foreign",
    "save",
    "synthesize",
    "synthesize_post_hoc",
    # The rest.
    "metrics",
    "as_steps",
    "profile",
    "refresh_batchnorm",
    "runs",
]

_MODULES = ("averaging", "checksums", "errors", "files", "metrics", "runs")
_AVERAGING = tuple(name for name in __all__ if name not in _MODULES)

if not TYPE_CHECKING:
    # The command's help needs no torch.
    __getattr__, __dir__, _ = lazily(__name__, {"averaging": _AVERAGING}, modules=_MODULES)
