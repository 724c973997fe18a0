"""Averages of any module's weights; needs torch and safetensors only."""

from polyak.averaging.averager import Averager
from polyak.averaging.batchnorm import refresh_batchnorm
from polyak.averaging.checkpoint import SavedWeights, load, save
from polyak.averaging.kinds import EMA, Average, PowerEMA, Uniform

__all__ = [
    "EMA",
    "Average",
    "Averager",
    "PowerEMA",
    "SavedWeights",
    "Uniform",
    "load",
    "refresh_batchnorm",
    "save",
]
