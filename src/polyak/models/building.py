"""From a model's name and options to its module with first weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from polyak import checksums
from polyak.errors import ConfigError, unknown
from polyak.models.config import ModelConfig, options_of, size_faults
from polyak.models.initialisation import initialise
from polyak.models.own_code import code_fingerprint
from polyak.models.resnet import resnet8, resnet18, resnet20, resnet34
from polyak.models.transformer import gpt, vit
from polyak.models.vgg import vgg16
from polyak.models.wide_resnet import wrn28_10
from polyak.userfile import load_function, parse_reference, refusing_errors

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "wrn28_10": wrn28_10,
    "vgg16": vgg16,
    "vit": vit,
    "gpt": gpt,
}


def pinned(config: ModelConfig) -> ModelConfig:
    """The configuration with the fingerprint of its code, if it names a file.

    Raises:
        ConfigError: if the file is missing or not Python.
    """
    reference = parse_reference(config.name)
    if reference is None or config.file_sha256 is not None:
        return config
    if not reference[0].is_file():
        raise ConfigError(
            f"model.name is {config.name!r}; expected a Python file at '{reference[0]}'."
        )
    return replace(config, file_sha256=code_fingerprint(*reference))


def pinned_whole(config: ModelConfig) -> ModelConfig:
    """The configuration as versions before pinned it: with the checksum of the whole file."""
    reference = parse_reference(config.name)
    if reference is None or not reference[0].is_file():
        return config
    return replace(config, file_sha256=checksums.of_file(reference[0]))


def check_fit(
    config: ModelConfig, *, classes: int, channels: int, image_size: int, generator_seed: int = 0
) -> None:
    """Raise a ConfigError with all faults at once, of a configuration or for such data.

    Arguments as for `build`.
    """
    own = parse_reference(config.name) is not None
    if config.name not in MODELS and not own:
        raise ConfigError(unknown("model", config.name, (*MODELS, "file.py:build")))
    faults = config.faults()
    if classes < 2:
        faults.append(f"classes is {classes!r}; expected >= 2")
    if channels < 1:
        faults.append(f"channels is {channels!r}; expected >= 1")
    if generator_seed < 0:
        faults.append(f"generator_seed is {generator_seed!r}; expected >= 0")
    if config.name == "gpt" and channels != 1:
        faults.append(f"channels is {channels!r}; expected 1 for gpt, which takes windows of bytes")
    if not own:
        faults += size_faults(config, image_size)
    if faults:
        raise ConfigError.of(f"model {config.name}", faults)


def build(
    config: ModelConfig, *, classes: int, channels: int, image_size: int, generator_seed: int
) -> nn.Module:
    """A network on the CPU, in train mode, with first weights that depend on the seed alone.

    Args:
        config: Which network, and its options.
        classes: Number of logits, >= 2.
        channels: Channels of the images, >= 1.
        image_size: Height and width of the images in pixels; >= 32 for vgg16, else >= 8. Of text
            the bytes of a window.
        generator_seed: Seed of the weights, >= 0. torch's generator uses its lowest 32 bits.

    Returns:
        Maps images (b, channels, image_size, image_size) to logits (b, classes). Its last
        layer is its attribute `head`. gpt maps windows (b, 1, image_size, 1) to logits
        (b, image_size, classes), and its last layer is its embedding. torch's global generator is
        neither read nor moved.

    Raises:
        ConfigError: with all faults at once, before anything is allocated.

    Example:
        >>> model = build(ModelConfig(), classes=10, channels=1, image_size=8, generator_seed=0)
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    check_fit(
        config,
        classes=classes,
        channels=channels,
        image_size=image_size,
        generator_seed=generator_seed,
    )
    reference = parse_reference(config.name)
    if reference is not None:
        return _build_user_model(
            *reference,
            file_sha256=config.file_sha256,
            classes=classes,
            channels=channels,
            seed=generator_seed,
        )

    values = {option: getattr(config, option) for option in options_of(config.name)}
    options = {option: value for option, value in values.items() if value is not None}
    if config.name == "gpt":
        options["context"] = image_size
    # Constructors draw weights from the global generator; on the meta device they draw nothing.
    with torch.device("meta"):
        model = MODELS[config.name](classes=classes, channels=channels, **options)
    model.to_empty(device="cpu")
    initialise(model, torch.Generator().manual_seed(generator_seed))
    return model


def _build_user_model(
    path: Path, function: str, *, file_sha256: str | None, classes: int, channels: int, seed: int
) -> nn.Module:
    """Run `function(classes, channels)` with torch's generators seeded, and restored afterwards.

    Raises:
        ConfigError: if file or function is missing, the file is not the one that the run was
            configured with, or the function raises or returns no module.
    """
    build = load_function(path, function, what="model.name", error=ConfigError)
    got = code_fingerprint(path, function)
    if file_sha256 not in (None, got, checksums.of_file(path)):
        raise ConfigError(
            f"the code of '{path}:{function}' is {got[:12]}; expected {str(file_sha256)[:12]}, as "
            "when the run was configured. Put the file and what it imports from its folder back, "
            "or start the study again: changed code is another run."
        )
    call = refusing_errors(f"'{path}:{function}'", path, error=ConfigError)
    with torch.random.fork_rng(), call:
        torch.manual_seed(seed)
        model = build(classes, channels)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"'{path}:{function}' returned a {type(model).__name__}; expected a torch.nn.Module."
        )
    return model.train()
