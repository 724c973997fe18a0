"""polyak data prepare: decode a data set once, so that training needs no network."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from rich.console import Console

from polyak.cli.console import decoding_lines
from polyak.data import DataSet, ImageSet, NoiseConfig, SourceConfig, load, prepare
from polyak.data.cache import prepare_noise
from polyak.errors import ConfigError

MANY = 20
"""Classes that are counted one by one, at most."""


@dataclass(frozen=True)
class DataCommand:
    """Data sets: decode one into the cache and say what it holds, and what was left out.

    Limits, hold-out, drawn noise and augmentation are a run's: `polyak train` has them.
    """

    action: Annotated[Literal["prepare"], tyro.conf.Positional]
    """What to do."""

    config: Annotated[SourceConfig, tyro.conf.arg(name="")]

    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Kind file with file and key: check a file of human labels and keep a copy in the cache."""

    def run(self) -> int:
        """Exit code 0."""
        faults = [*self.config.faults(), *self._noise_faults()]
        if faults:
            raise ConfigError.of("data", faults)
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        prepared = prepare(self.config, on_decoded=decoding_lines(console))
        data = load(prepared)
        if self.noise.kind == "file":
            prepare_noise(self.noise, data.train.labels_n)
        print(
            f"{data.name}: {len(data.train.labels_n)} training and {len(data.test.labels_n)} test "
            f"{_kind(data)}"
        )
        print(f"fingerprint: {prepared.fingerprint}")
        print("\n".join(data.notes if data.text else _details(data)))
        return 0

    def _noise_faults(self) -> list[str]:
        found = self.noise.faults()
        if self.noise.kind in ("symmetric", "asymmetric"):
            found.append(
                f"noise.kind is {self.noise.kind!r}; expected none or file, as drawn noise is a "
                "run's. Give it to `polyak train` with --data.noise.kind"
            )
        elif self.noise.seed:
            found.append(f"noise.seed is {self.noise.seed!r}; expected 0, as nothing is drawn")
        return found


def _kind(data: DataSet) -> str:
    """What there is a number of, and of what form."""
    shape_chw, classes = data.train.images_nchw.shape[1:], len(data.train.classes)
    if data.text:
        return f"windows of {shape_chw[1] - 1} bytes, {classes} files"
    return f"images of {'×'.join(str(side) for side in shape_chw)}, {classes} classes"


def _details(data: DataSet) -> list[str]:
    """Images by class and split, then what was left out or read otherwise than one may think."""
    lines = []
    held = data.holdout_images
    train = data.train
    if held:
        first = len(train) - held
        lines.append(f"train: {_counts(train, 0, first)}")
        lines.append(f"hold-out: {_counts(train, first, len(train))}")
    else:
        lines.append(f"train: {_counts(train, 0, len(train))}")
    lines.append(f"test: {_counts(data.test, 0, len(data.test))}")
    if data.shared_images:
        lines.append(f"{data.shared_images} test images are training images too")
    return [*lines, *data.notes]


def _counts(images: ImageSet, first: int, end: int) -> str:
    """How many images each class has."""
    classes = images.classes
    counts = images.labels_n[first:end].bincount(minlength=len(classes)).tolist()
    if len(set(counts)) == 1:
        return f"{len(classes)} classes × {counts[0]} images"
    if len(classes) <= MANY:
        return ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    return f"{len(classes)} classes of {min(counts)} to {max(counts)} images"
