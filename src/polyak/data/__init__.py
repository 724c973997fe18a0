"""Data sets: decoded once, split, made noisy on purpose, and batched on the device."""

from typing import TYPE_CHECKING

from polyak.lazy import lazily

if TYPE_CHECKING:
    from polyak.data.batches import augment as augment
    from polyak.data.batches import epoch_batches as epoch_batches
    from polyak.data.cache import load as load
    from polyak.data.cache import prepare as prepare
    from polyak.data.config import DataConfig as DataConfig
    from polyak.data.config import NoiseConfig as NoiseConfig
    from polyak.data.config import SourceConfig as SourceConfig
    from polyak.data.images import DataSet as DataSet
    from polyak.data.images import ImageSet as ImageSet
    from polyak.data.partitions import Partition as Partition
    from polyak.data.partitions import partition as partition

_HOMES = {
    "batches": ("augment", "epoch_batches"),
    "cache": ("load", "prepare"),
    "config": ("DataConfig", "NoiseConfig", "SourceConfig"),
    "images": ("DataSet", "ImageSet"),
    "partitions": ("Partition", "partition"),
}

if not TYPE_CHECKING:
    __getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
