"""polyak data prepare: decode a data set once, so that training needs no network."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from polyak.data import DataConfig, load, prepare
from polyak.errors import ConfigError


@dataclass(frozen=True)
class DataCommand:
    """Data sets: decode one into the cache and say what it holds."""

    action: Annotated[Literal["prepare"], tyro.conf.Positional]
    """What to do."""

    config: Annotated[DataConfig, tyro.conf.arg(name="")]

    def run(self) -> int:
        """Exit code 0."""
        faults = self.config.faults()
        if faults:
            raise ConfigError.of("data", faults)
        prepared = prepare(self.config)
        data = load(prepared)
        shape = "×".join(str(side) for side in data.train.images_nchw.shape[1:])
        print(
            f"{data.name}: {len(data.train.labels_n)} training and {len(data.test.labels_n)} test "
            f"images of {shape}, {len(data.train.classes)} classes"
        )
        print(f"fingerprint: {prepared.fingerprint}")
        return 0
