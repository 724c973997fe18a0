"""A source decoded as every command decodes it, without a cache."""

from pathlib import Path

from polyak.data import DataConfig, ImageSet
from polyak.data.sources import decode


def decoded(source: Path, columns=(None, None), **settings) -> tuple[ImageSet, ImageSet]:
    """Training and test set of what lies at a path."""
    image, label = columns
    config = DataConfig(source=str(source), image_column=image, label_column=label, **settings)
    dataset = decode(config)
    return dataset.train, dataset.test
