"""Averages of any module's weights; needs torch and safetensors only.

README.md beside this file is the map of its rooms.
"""

from typing import TYPE_CHECKING

from polyak.lazy import lazily

if TYPE_CHECKING:
    from polyak.averaging.averager import Averager as Averager
    from polyak.averaging.batchnorm.refresh import refresh_batchnorm as refresh_batchnorm
    from polyak.averaging.boards.board import Board as Board
    from polyak.averaging.files.averages import gathered as gathered
    from polyak.averaging.files.averages import load as load
    from polyak.averaging.files.averages import save as save
    from polyak.averaging.files.foreign import read_foreign as read_foreign
    from polyak.averaging.files.mixtures.board import board as board
    from polyak.averaging.files.mixtures.merge import merge as merge
    from polyak.averaging.files.mixtures.post_hoc import synthesize_post_hoc as synthesize_post_hoc
    from polyak.averaging.files.mixtures.synthesize import synthesize as synthesize
    from polyak.averaging.kinds import EMA as EMA
    from polyak.averaging.kinds import Annealed as Annealed
    from polyak.averaging.kinds import Average as Average
    from polyak.averaging.kinds import Combination as Combination
    from polyak.averaging.kinds import CosineEMA as CosineEMA
    from polyak.averaging.kinds import HardCopy as HardCopy
    from polyak.averaging.kinds import Initial as Initial
    from polyak.averaging.kinds import PowerEMA as PowerEMA
    from polyak.averaging.kinds import Schedule as Schedule
    from polyak.averaging.kinds import Uniform as Uniform
    from polyak.averaging.kinds import Update as Update
    from polyak.averaging.kinds import Window as Window
    from polyak.averaging.kinds.lengths import as_steps as as_steps
    from polyak.averaging.kinds.profiles.profile import profile as profile
    from polyak.averaging.kinds.warmups import Exponential as Exponential
    from polyak.averaging.kinds.warmups import HalfLifeRamp as HalfLifeRamp
    from polyak.averaging.kinds.warmups import InverseGamma as InverseGamma
    from polyak.averaging.kinds.warmups import Ratio as Ratio
    from polyak.averaging.saved_weights import SavedWeights as SavedWeights

_HOMES = {
    "averager": ("Averager",),
    "batchnorm.refresh": ("refresh_batchnorm",),
    "boards.board": ("Board",),
    "files.averages": ("gathered", "load", "save"),
    "files.foreign": ("read_foreign",),
    "files.mixtures.board": ("board",),
    "files.mixtures.merge": ("merge",),
    "files.mixtures.post_hoc": ("synthesize_post_hoc",),
    "files.mixtures.synthesize": ("synthesize",),
    "kinds": (
        "EMA",
        "Annealed",
        "Average",
        "Combination",
        "CosineEMA",
        "HardCopy",
        "Initial",
        "PowerEMA",
        "Schedule",
        "Uniform",
        "Update",
        "Window",
    ),
    "kinds.lengths": ("as_steps",),
    "kinds.profiles.profile": ("profile",),
    "kinds.warmups": ("Exponential", "HalfLifeRamp", "InverseGamma", "Ratio"),
    "saved_weights": ("SavedWeights",),
}

if not TYPE_CHECKING:
    __getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
