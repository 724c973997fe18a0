"""What to train on: the settings of a data set, its hold-out, its label noise and augmentation."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from polyak.userfile import parse_reference

NoiseKind = Literal["none", "symmetric", "asymmetric", "file"]
Validation = Literal["holdout", "ignore"]
ResizeHow = Literal["shorter-side-crop", "squash"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many training and test images are wanted; None: all."""

    train: int | None = None
    test: int | None = None

    def covers(self, other: "Limits") -> bool:
        """Whether images for these limits are enough for others: a smaller draw is a part."""
        pairs = ((self.train, other.train), (self.test, other.test))
        return all(own is None or (asked is not None and asked <= own) for own, asked in pairs)

    def within(self, train: int, test: int) -> "Limits":
        """The same of parts of so many images: what is not below that keeps all."""
        return Limits(
            *(
                None if limit is None or limit >= n else limit
                for limit, n in ((self.train, train), (self.test, test))
            )
        )


EVERYTHING = Limits()

HUB_NAMES = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
}
NAMES = ("digits", "digits-parity", "fashion-mnist", *HUB_NAMES)
TEXT = "text:"
"""What the name of a source of text begins with."""


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
        elif drawn and not self.rate:
            # Else the run would train on right labels, and its page would speak of noise.
            found.append(
                f"noise.rate is {self.rate!r}; expected 0 < rate <= 1 where kind is {self.kind!r}"
            )
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
class SourceConfig:
    """A data set and how it is decoded: all that its entry in the cache depends on."""

    source: str = "digits"
    """digits, digits-parity, fashion-mnist, cifar10, cifar100, tiny-imagenet, another data set of
    the Hugging Face hub as owner/name, a folder or file (docs/data.md lists what is read),
    file.py:load, or text as bytes: text:stdlib, the sources of Python's standard library, or text:
    and a folder or file."""

    image_column: str | None = None
    """Column that holds the images, for tables. None: the only one that can."""

    label_column: str | None = None
    """Column that holds the labels, for tables. None: fine_label, else the only one that can."""

    test_split: float | None = None
    """Share of the images to set apart as the test set, in (0, 1), of a source that has none: a
    stratified draw. None: the source has a test set. Of text a share by file; None: 0.1."""

    test_split_seed: int = 0
    """Seed of that draw. The same for all runs of a study, whatever their own seed."""

    validation: Validation = "holdout"
    """What a source's own validation split is, beside a test split. holdout: search runs select
    on it, refits train on it too. ignore: it is not read, and the hold-out is drawn."""

    resize: int | None = None
    """Side in pixels of the square to which all images are resized. None: they share one size."""

    resize_how: ResizeHow = "shorter-side-crop"
    """shorter-side-crop: scale the shorter side, cut the middle out. squash: scale both sides."""

    context: int = 128
    """Bytes of a window of text, >= 1: what a prediction rests on at most."""

    fingerprint: str | None = None
    """SHA-256 that identifies the decoded data, in hexadecimal. Filled in by preparing it."""

    def faults(self) -> list[str]:
        """What is wrong with these settings, one phrase each."""
        found = []
        if not self.source:
            found.append("source is ''; expected a name or a path")
        for name in ("image_column", "label_column"):
            if getattr(self, name) == "":
                found.append(f"{name} is ''; expected a name or None")
        if self.test_split is not None and not 0 < self.test_split < 1:
            found.append(f"test_split is {self.test_split!r}; expected 0 < test_split < 1 or None")
        if self.test_split_seed < 0:
            found.append(f"test_split_seed is {self.test_split_seed!r}; expected >= 0")
        elif self.test_split_seed and self.test_split is None:
            found.append(
                f"test_split_seed is {self.test_split_seed!r}; expected 0 where test_split is None"
            )
        if self.resize is not None and self.resize < 1:
            found.append(f"resize is {self.resize!r}; expected >= 1 pixel or None")
        for name, kind in (("validation", Validation), ("resize_how", ResizeHow)):
            if getattr(self, name) not in get_args(kind):
                choices = ", ".join(get_args(kind))
                found.append(f"{name} is {getattr(self, name)!r}; expected one of {choices}")
        found += self._without_use()
        return found + _fingerprint_faults("fingerprint", self.fingerprint)

    def _without_use(self) -> list[str]:
        """Settings of images where the source is text, and the other way round."""
        if self.source == TEXT:
            return [f"source is {TEXT!r}; expected text:stdlib, or text: and a path"]
        if self.context < 1:
            return [f"context is {self.context!r}; expected >= 1 byte"]
        what = "text, which has" if self.is_text else "images, which have"
        names = _OF_IMAGES if self.is_text else ("context",)
        defaults = {field.name: field.default for field in fields(self)}
        return [
            f"{name} is {getattr(self, name)!r}; expected {defaults[name]!r} for {what} no "
            "such setting"
            for name in names
            if getattr(self, name) != defaults[name]
        ]

    @property
    def is_text(self) -> bool:
        """Whether samples are positions in text."""
        return self.source.startswith(TEXT)

    @property
    def inputs(self) -> str:
        """What a network is given, in the plural: "images", or "windows" of text."""
        return "windows" if self.is_text else "images"

    @property
    def limits(self) -> Limits:
        """What of the source has to be decoded."""
        return EVERYTHING

    def decoding(self) -> dict[str, object]:
        """The settings of the decoding that are not as they always were, for fingerprints."""
        chosen: dict[str, object] = {}
        if self.test_split is not None:
            chosen |= {"test_split": self.test_split, "test_split_seed": self.test_split_seed}
        if self.resize is not None:
            chosen |= {"resize": self.resize, "resize_how": self.resize_how}
        if self.is_text:
            chosen["context"] = self.context
        return chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(SourceConfig):
    """A data set and what training does with it."""

    train_limit: int | None = None
    """Number of training images to keep, hold-out included: a fixed stratified draw, in which a
    smaller number is a subset of a larger one. None: all. Of text it counts windows, drawn evenly
    from all files."""

    test_limit: int | None = None
    """Number of test images to keep, drawn likewise. None: all; of text, windows that make 20,000
    positions. Of text no more windows of the hold-out are evaluated either."""

    holdout: float = 0.2
    """Share of the training images that search runs keep for selection, in (0, 1); of text in whole
    files."""

    split_seed: int = 42
    """Seed of the hold-out's draw. The same for all runs of a study, whatever their own seed."""

    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Label noise."""

    crop_padding: int = 4
    """Pixels of zeros on each side from which training images are cropped. 0: no crop, as always
    of text."""

    flip: bool = True
    """Whether training images are mirrored left to right, each with probability 1/2; those of
    text never are."""

    def __post_init__(self) -> None:
        # The defaults are those of images; with them one run of text would have two ids.
        if self.is_text and self.crop_padding == 4:
            object.__setattr__(self, "crop_padding", 0)
        if self.is_text and self.flip:
            object.__setattr__(self, "flip", False)

    def faults(self) -> list[str]:
        """What is wrong with these settings and those of the noise, one phrase each."""
        found = SourceConfig.faults(self)
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
        return found + self.noise.faults() + self._text_faults()

    def _text_faults(self) -> list[str]:
        """What changes images or labels, where the source is text."""
        changed = {"crop_padding": self.crop_padding, "noise.kind": self.noise.kind}
        nothing = {"crop_padding": 0, "noise.kind": "none"}
        return [
            f"{name} is {value!r}; expected {nothing[name]!r} for text, whose bytes are what they "
            "are"
            for name, value in changed.items()
            if self.is_text and value != nothing[name]
        ]

    @property
    def limits(self) -> Limits:
        """What of the source has to be decoded."""
        return Limits(self.train_limit, self.test_limit)

    def images_only(self) -> "DataConfig":
        """The same source, decoded the same way, with the defaults for what a run does with it."""
        return DataConfig(**{f.name: getattr(self, f.name) for f in fields(SourceConfig)})


def name_of(source: str) -> str:
    """What pages call a source: the last part of its path or name."""
    if source.startswith(TEXT):
        return Path(source.removeprefix(TEXT)).expanduser().resolve().name
    reference = parse_reference(source)
    if reference:
        return reference[0].stem
    return source if source in NAMES else Path(source).expanduser().resolve().name


_OF_IMAGES = ("image_column", "label_column", "validation", "resize", "resize_how")
"""Settings of a source that text does not have."""


def _fingerprint_faults(what: str, value: str | None) -> list[str]:
    # It names a folder of the cache, so nothing but digits may pass.
    if value is None or re.fullmatch("[0-9a-f]{64}", value):
        return []
    return [f"{what} is {value!r}; expected 64 hexadecimal digits or None"]
