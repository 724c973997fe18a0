"""What to train on: the settings of a data set, its hold-out, its label noise and augmentation."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

NoiseKind = Literal["none", "symmetric", "asymmetric", "file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """Wrong training labels: drawn, or read from a file of human labels.

    The noise falls on all training labels before the hold-out is split off, so that the
    hold-out's labels are noisy too, as in the authors' code. Test labels are never touched.
    """

    kind: NoiseKind = "none"
    """none: labels as they are. symmetric: to any other class. asymmetric: to the next class.
    file: the labels of a CIFAR-N file."""

    rate: float = 0.0
    """Share of the training labels that become wrong, in [0, 1]. For symmetric and asymmetric."""

    seed: int = 0
    """Seed of the draw. The same for all runs of a study, whatever their own seed."""

    file: str | None = None
    """Path of the CIFAR-N file. For kind file."""

    key: str | None = None
    """Which labels of the file, such as worse_label. For kind file."""

    fingerprint: str | None = None
    """SHA-256 of the file, in hexadecimal. Filled in by preparing it."""

    def faults(self) -> list[str]:
        """What is wrong with these settings, one phrase each."""
        found = []
        drawn, read = self.kind in ("symmetric", "asymmetric"), self.kind == "file"
        if self.kind not in get_args(NoiseKind):
            choices = ", ".join(get_args(NoiseKind))
            found.append(f"noise.kind is {self.kind!r}; expected one of {choices}")
        if not 0 <= self.rate <= 1:
            found.append(f"noise.rate is {self.rate!r}; expected 0 <= rate <= 1")
        elif self.rate and not drawn:
            found.append(f"noise.rate is {self.rate!r}; expected 0 where kind is {self.kind!r}")
        if self.seed < 0:
            found.append(f"noise.seed is {self.seed!r}; expected >= 0")
        for name, value in (("file", self.file), ("key", self.key)):
            if read and not value:
                found.append(f"noise.{name} is {value!r}; expected a value where kind is 'file'")
            if not read and value is not None:
                found.append(
                    f"noise.{name} is {value!r}; expected None where kind is {self.kind!r}"
                )
        return found + _fingerprint_faults("noise.fingerprint", self.fingerprint)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A data set and what training does with it."""

    source: str = "digits"
    """digits, digits-parity, fashion-mnist, cifar10, cifar100, tiny-imagenet, another data set of
    the Hugging Face hub as owner/name, a folder (parquet files, IDX files, class folders or
    Tiny-ImageNet's own tree), or file.py:load."""

    image_column: str | None = None
    """Column that holds the images, for tables. None: the only one that can."""

    label_column: str | None = None
    """Column that holds the labels, for tables. None: fine_label, else the only one that can."""

    train_limit: int | None = None
    """Number of training images to keep, hold-out included: a fixed stratified draw, in which a
    smaller number is a subset of a larger one. None: all."""

    test_limit: int | None = None
    """Number of test images to keep, drawn likewise. None: all."""

    holdout: float = 0.2
    """Share of the training images that search runs keep for selection, in (0, 1)."""

    split_seed: int = 42
    """Seed of the hold-out's draw. The same for all runs of a study, whatever their own seed."""

    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Label noise."""

    crop_padding: int = 4
    """Pixels of zeros on each side from which training images are cropped. 0: no crop."""

    flip: bool = True
    """Whether training images are mirrored left to right, each with probability 1/2."""

    fingerprint: str | None = None
    """SHA-256 that identifies the decoded data, in hexadecimal. Filled in by preparing it."""

    def faults(self) -> list[str]:
        """What is wrong with these settings and those of the noise, one phrase each."""
        found = []
        if not self.source:
            found.append("source is ''; expected a name or a path")
        for name in ("image_column", "label_column"):
            if getattr(self, name) == "":
                found.append(f"{name} is ''; expected a name or None")
        for name in ("train_limit", "test_limit"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                found.append(f"{name} is {limit!r}; expected >= 1 or None")
        if not 0 < self.holdout < 1:
            found.append(f"holdout is {self.holdout!r}; expected 0 < holdout < 1")
        if self.split_seed < 0:
            found.append(f"split_seed is {self.split_seed!r}; expected >= 0")
        if self.crop_padding < 0:
            found.append(f"crop_padding is {self.crop_padding!r}; expected >= 0")
        return found + _fingerprint_faults("fingerprint", self.fingerprint) + self.noise.faults()


def _fingerprint_faults(what: str, value: str | None) -> list[str]:
    # It names a folder of the cache, so nothing but digits may pass.
    if value is None or re.fullmatch("[0-9a-f]{64}", value):
        return []
    return [f"{what} is {value!r}; expected 64 hexadecimal digits or None"]
