"""Which network to train, as settings: no torch."""

from dataclasses import dataclass

from polyak.errors import unknown
from polyak.userfile import parse_reference

OPTIONS: dict[str, tuple[str, ...]] = {
    "resnet8": ("width",),
    "resnet20": ("width",),
    "resnet18": ("width",),
    "resnet34": ("width",),
    "wrn28_10": ("conv_bias", "final_norm_momentum"),
    "vgg16": (),
}
"""The models of `MODELS`, and the options that each takes beside classes and channels; it refuses
the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which network to train. Classes, channels and image size come from the data."""

    name: str = "resnet8"
    """A name that `polyak list` shows, or file.py:build for a function build(classes, channels) ->
    Module."""

    width: int | None = None
    """Channels of the first stage of a ResNet, >= 1; each later stage has twice as many. None: 16
    of resnet8 and resnet20, 64 of resnet18 and resnet34."""

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
                ("width", self.width, None),
                ("conv_bias", self.conv_bias, False),
                ("final_norm_momentum", self.final_norm_momentum, None),
                ("file_sha256", self.file_sha256, None),
            )
            if value != default and option not in _options(self.name)
        ]
        if self.width is not None and self.width < 1:
            usual = 64 if self.name in ("resnet18", "resnet34") else 16
            faults.append(f"width is {self.width!r}; expected >= 1, or None for {usual}")
        if self.final_norm_momentum is not None and not 0 < self.final_norm_momentum <= 1:
            faults.append(
                f"final_norm_momentum is {self.final_norm_momentum!r}; "
                "expected 0 < final_norm_momentum <= 1, or None for 0.1"
            )
        return faults


def _options(name: str) -> tuple[str, ...]:
    return ("file_sha256",) if parse_reference(name) else OPTIONS.get(name, ())
