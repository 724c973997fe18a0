"""Data sets: decoded once, split, made noisy on purpose, and batched on the device."""

from polyak.data.batches import augment, epoch_batches
from polyak.data.cache import load, prepare
from polyak.data.config import DataConfig, NoiseConfig, SourceConfig
from polyak.data.images import DataSet, ImageSet
from polyak.data.partition import Partition, partition

# `polyak.data.partition` is the function here; its file is reached by importing from it.
__all__ = [
    "DataConfig",
    "NoiseConfig",
    "SourceConfig",
    "DataSet",
    "ImageSet",
    "Partition",
    "prepare",
    "load",
    "partition",
    "augment",
    "epoch_batches",
]
