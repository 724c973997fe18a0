"""What can be carried out, as the settings that determine its result; nothing here needs torch.

A training run composes the settings of its parts; a probe and a measurement refer to runs.
"""

from polyak.training.config.optim import OptimConfig
from polyak.training.config.overhead import OverheadConfig
from polyak.training.config.probe import ProbeConfig
from polyak.training.config.run import (
    LATER,
    PAPER_DECAYS,
    PRECISIONS,
    AskedPrecision,
    AveragingConfig,
    Keep,
    Precision,
    RunConfig,
    digest,
    without_defaults,
)

Job = RunConfig | ProbeConfig | OverheadConfig

__all__ = [
    "AskedPrecision",
    "AveragingConfig",
    "Job",
    "Keep",
    "LATER",
    "OptimConfig",
    "OverheadConfig",
    "PAPER_DECAYS",
    "PRECISIONS",
    "Precision",
    "ProbeConfig",
    "RunConfig",
    "digest",
    "without_defaults",
]
