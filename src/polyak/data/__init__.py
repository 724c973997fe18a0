"""Data sets: decoded once, split, made noisy on purpose, and batched on the device."""

from typing import TYPE_CHECKING

from polyak.lazy import lazily

if TYPE_CHECKING:
    from polyak.data.batches import augment, epoch_batches
    from polyak.data.cache import load, prepare
    from polyak.data.config import DataConfig, NoiseConfig, SourceConfig
    from polyak.data.images import DataSet, ImageSet
    from polyak.data.partitions import Partition, partition

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

_HOMES = {
    "batches": ("augment", "epoch_batches"),
    "cache": ("load", "prepare"),
    "config": ("DataConfig", "NoiseConfig", "SourceConfig"),
    "images": ("DataSet", "ImageSet"),
    "partitions": ("Partition", "partition"),
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, _HOMES)
