"""Which network to train, as settings: no torch."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from polyak.errors import unknown
from polyak.userfile import parse_reference

Norm = Literal["batch", "group"]
HEAD = 32
"""Width of an attention head of the transformers."""

OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("resnet8", "resnet20", "resnet18", "resnet34"), ("width", "norm")),
    "wrn28_10": ("conv_bias", "final_norm_momentum"),
    "vgg16": (),
    "vit": ("width", "patch", "depth"),
    "gpt": ("width", "depth"),
}
"""The models of `MODELS`, and the options that each takes beside classes and channels; it refuses
the others."""

# What the options that count something are where they are None.
_USUAL: dict[str, dict[str, int]] = {
    "resnet8": {"width": 16},
    "resnet20": {"width": 16},
    "resnet18": {"width": 64},
    "resnet34": {"width": 64},
    "vit": {"width": 192, "patch": 4, "depth": 6},
    "gpt": {"width": 128, "depth": 4},
}

# How often a model halves the image; VGG's poolings round down, strided convolutions up.
_HALVINGS = {"resnet8": 2, "resnet20": 2, "resnet18": 3, "resnet34": 3, "wrn28_10": 2, "vgg16": 5}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which network to train. Classes, channels and image size come from the data."""

    name: str = "resnet8"
    """A name that `polyak list` shows, or file.py:build for a function build(classes, channels) ->
    Module."""

    width: int | None = None
    """Channels of the first stage of a ResNet, >= 1; each later stage has twice as many. None: 16
    of resnet8 and resnet20, 64 of resnet18 and resnet34. Of vit and gpt: a token's width, a
    multiple of 32; 192 of vit, 128 of gpt."""

    norm: Norm = "batch"
    """Normalisation of a ResNet: batch, as published, or group (8 channels a group)."""

    patch: int | None = None
    """Height and width of vit's patches in pixels, >= 1; a divisor of the images' size. None: 4."""

    depth: int | None = None
    """Blocks of vit and gpt, >= 1. None: 6 of vit, 4 of gpt."""

    conv_bias: bool = False
    """Whether wrn28_10's convolutions have biases, as in the averaging paper's code."""

    final_norm_momentum: float | None = None
    """Momentum of wrn28_10's last BatchNorm, in (0, 1]; 0.9 in that code. None: 0.1."""

    file_sha256: str | None = None
    """Fingerprint of the code in file.py and beside it that the function reaches, filled in when
    a run is made: changed code is another run. In runs of before 30 November 2026 the checksum of
    the file."""

    def faults(self) -> list[str]:
        """What is wrong with this configuration, one phrase a fault; empty if nothing.

        Example:
            >>> ModelConfig(name="vgg16", width=8).faults()
            ['width is 8; expected None for vgg16, which has no such option']
        """
        own = parse_reference(self.name) is not None
        if self.name not in OPTIONS and not own:
            return [unknown("name", self.name, (*OPTIONS, "file.py:build"))]
        faults = [
            f"{option} is {value!r}; expected {default} for {self.name}, which has no such option"
            for option, value, default in (
                (f.name, getattr(self, f.name), f.default) for f in fields(self) if f.name != "name"
            )
            if value != default and option not in options_of(self.name)
        ]
        for option, usual in _USUAL.get(self.name, {}).items():
            value = getattr(self, option)
            if value is not None and value < 1:
                faults.append(f"{option} is {value!r}; expected >= 1, or None for {usual}")
        if self.name in ("vit", "gpt") and self.width is not None and self.width % HEAD:
            faults.append(f"width is {self.width!r}; expected a multiple of {HEAD} for {self.name}")
        if self.norm not in get_args(Norm):
            faults.append(unknown("norm", self.norm, get_args(Norm)))
        if self.final_norm_momentum is not None and not 0 < self.final_norm_momentum <= 1:
            faults.append(
                f"final_norm_momentum is {self.final_norm_momentum!r}; "
                "expected 0 < final_norm_momentum <= 1, or None for 0.1"
            )
        return faults


def options_of(name: str) -> tuple[str, ...]:
    """The options that a model takes beside classes and channels."""
    return ("file_sha256",) if parse_reference(name) else OPTIONS.get(name, ())


def size_faults(config: ModelConfig, image_size: int) -> list[str]:
    """The fault of images of a wrong size, with what the last feature map would be."""
    name = config.name
    if name == "gpt":
        return []
    if name == "vit":
        patch = config.patch or _USUAL["vit"]["patch"]
        if image_size % patch == 0 and image_size >= patch:
            return []
        return [f"image_size is {image_size!r}; expected a multiple of patch ({patch})"]
    least = 32 if name == "vgg16" else 8
    if image_size >= least:
        return []
    parts = 2 ** _HALVINGS[name]
    side = image_size // parts if name == "vgg16" else -(-image_size // parts)
    return [
        f"image_size is {image_size!r}; expected >= {least}, since {_HALVINGS[name]} halvings "
        f"would leave a last feature map of {side}×{side}: enlarge or pad the images"
    ]
