"""Averages of any module's weights; needs torch and safetensors only."""

from polyak.averaging.averager import Averager
from polyak.averaging.batchnorm import refresh_batchnorm
from polyak.averaging.checkpoint import SavedWeights, load, save
from polyak.averaging.gathering import gathered
from polyak.averaging.kinds import EMA, Average, PowerEMA, Schedule, Uniform, Window
from polyak.averaging.profile import profile
from polyak.averaging.readers import read_foreign
from polyak.averaging.synthesis import synthesize
from polyak.averaging.warmups import Exponential, HalfLifeRamp, InverseGamma, Ratio

__all__ = [
    "EMA",
    "Average",
    "Averager",
    "Exponential",
    "HalfLifeRamp",
    "InverseGamma",
    "PowerEMA",
    "Ratio",
    "SavedWeights",
    "Schedule",
    "Uniform",
    "Window",
    "gathered",
    "load",
    "profile",
    "read_foreign",
    "refresh_batchnorm",
    "save",
    "synthesize",
]
