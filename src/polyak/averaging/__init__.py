"""Averages of any module's weights; needs torch and safetensors only.

README.md beside this file is the map of its rooms.
"""

from polyak.averaging.averager import Averager
from polyak.averaging.batchnorm.refresh import refresh_batchnorm
from polyak.averaging.files.averages import SavedWeights, gathered, load, save
from polyak.averaging.files.foreign import read_foreign
from polyak.averaging.files.merge import merge
from polyak.averaging.files.synthesize import synthesize
from polyak.averaging.kinds import (
    EMA,
    Average,
    CosineEMA,
    HardCopy,
    PowerEMA,
    Schedule,
    Uniform,
    Update,
    Window,
)
from polyak.averaging.kinds.lengths import as_steps
from polyak.averaging.kinds.profile import profile
from polyak.averaging.kinds.warmups import Exponential, HalfLifeRamp, InverseGamma, Ratio

__all__ = [
    "EMA",
    "Average",
    "Averager",
    "CosineEMA",
    "Exponential",
    "HalfLifeRamp",
    "HardCopy",
    "InverseGamma",
    "PowerEMA",
    "Ratio",
    "SavedWeights",
    "Schedule",
    "Uniform",
    "Update",
    "Window",
    "as_steps",
    "gathered",
    "load",
    "merge",
    "profile",
    "read_foreign",
    "refresh_batchnorm",
    "save",
    "synthesize",
]
