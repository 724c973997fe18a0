"""A user's network is tried once, before anything is trained with it.

Shape suffixes: b batch, c channels, h height, w width, k classes.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from polyak.errors import ConfigError
from polyak.models.building import build
from polyak.models.config import ModelConfig
from polyak.models.head_input import features
from polyak.userfile import parse_reference, refusing_errors

IMAGES = 16
"""What a trial takes: with fewer, ordinary outputs might look like those of a sigmoid."""

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def try_network(
    config: ModelConfig,
    images_bchw: Tensor,
    *,
    classes: int,
    positions: int | None = None,
    targets: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor] | None:
    """Build a user's network and look at what it makes of a batch, in train and in eval mode.

    Args:
        config: Which network; one of ours is not tried.
        images_bchw: Normalised images, on the device.
        classes: Number of logits that are wanted.
        positions: Of a window of text, each with logits of its own; None: images.
        targets: Batches of other data sets, from which a linear probe wants features.

    Returns:
        Logits (b, k) in eval mode, twice, of text (b·positions, k); None of a network that is not
        tried.

    Raises:
        ConfigError: if it cannot be trained, or its outputs are no logits of so many classes.
            torch's global generators are neither read nor moved.
    """
    reference = parse_reference(config.name)
    if reference is None:
        return None
    device = images_bchw.device
    channels, size = images_bchw.shape[1:3]
    what = f"'{config.name}' with images of shape {tuple(images_bchw.shape)}"
    trial = refusing_errors(what, reference[0], error=ConfigError)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), trial:
        torch.manual_seed(0)
        model = build(config, classes=classes, channels=channels, image_size=size, generator_seed=0)
        _refuse(config, _faults_of_module(model))
        model.to(device)
        shape = (len(images_bchw), *([] if positions is None else [positions]), classes)
        outputs_bk = model.train()(images_bchw)
        _refuse(config, _faults_of_outputs(outputs_bk, shape, mode="train"))
        model.eval()
        with torch.no_grad():
            logits_bk, again_bk = model(images_bchw), model(images_bchw)
            _refuse(config, _faults_of_outputs(logits_bk, shape, mode="eval"))
            for target_bchw in targets:
                features(model, target_bchw)
    return logits_bk.flatten(end_dim=-2), again_bk.flatten(end_dim=-2)


def _refuse(config: ModelConfig, faults: Iterator[str]) -> None:
    found = list(faults)
    if found:
        raise ConfigError.of(f"model {config.name}", found)


def _faults_of_module(model: nn.Module) -> Iterator[str]:
    parameters = list(model.parameters())
    if isinstance(model, _PARALLEL):
        yield (
            f"build returned a {type(model).__name__}; expected the network inside. Return it "
            "without the wrapper: runs share the cards, a run has one"
        )
    elif not parameters:
        yield "the network has no parameters; expected some to train"
    elif any(is_lazy(parameter) for parameter in parameters):
        yield (
            "the network has layers of unknown size (lazy ones); expected their sizes. Give them, "
            "or run a batch through it in build"
        )
    elif not any(parameter.requires_grad for parameter in parameters):
        yield "all parameters of the network are frozen; expected some to train"


def _faults_of_outputs(outputs: object, shape: tuple[int, ...], *, mode: str) -> Iterator[str]:
    what = f"the output in {mode} mode"
    of_text = " at each position" if len(shape) > 2 else ""
    if not isinstance(outputs, Tensor):
        yield (
            f"{what} is a {type(outputs).__name__}; expected a tensor of logits. Return that "
            "alone, without auxiliary outputs"
        )
    elif tuple(outputs.shape) != shape:
        yield (
            f"the shape of {what} is {tuple(outputs.shape)} for {shape[0]} images; expected "
            f"{shape}, one logit for each class{of_text}. Give the last layer `classes` outputs"
        )
    elif not outputs.is_floating_point():
        yield f"the dtype of {what} is {outputs.dtype}; expected a floating one: logits"
    elif not bool(outputs.isfinite().all()):
        yield f"{what} holds NaN or infinity before any training; expected finite logits"
    elif mode == "train" and not outputs.requires_grad:
        yield f"{what} has no gradient; expected one that depends on the parameters"
