"""The linear probe: what frozen features are worth on another task.

All backbones' heads are one batched linear problem, since features do not change.
Shape suffixes: r backbones, n samples, b batch, f features, k classes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from polyak.averaging import load as load_weights
from polyak.data import ImageSet, Partition, epoch_batches
from polyak.data.device_images import DeviceImages
from polyak.errors import ConfigError
from polyak.models import build, features
from polyak.records.predictions import write_predictions
from polyak.records.runs import run_folder
from polyak.training.config import ProbeConfig
from polyak.training.optim import cosine
from polyak.training.prediction import EVALUATION_BATCH
from polyak.training.randomness import generator

FeaturesOf = Callable[[Tensor], Tensor]
"""From the numbers of a batch's samples to its features, shape (r, b, f)."""


_CPU = torch.device("cpu")


@dataclass(slots=True)
class Heads:
    """A linear classifier per backbone.

    logits_rbk = x_rbf · W_rkf + bias_rk
    """

    weight_rkf: Tensor
    bias_rk: Tensor

    @classmethod
    def initialised(
        cls,
        backbones: int,
        inputs: int,
        classes: int,
        seed: int,
        *,
        device: torch.device = _CPU,
    ) -> "Heads":
        """The same draw for every backbone, uniform in ±1/√f like torch's Linear."""
        draws = generator(seed, "heads")
        bound = inputs**-0.5
        weight_kf = (2 * torch.rand(classes, inputs, generator=draws) - 1) * bound
        bias_k = (2 * torch.rand(classes, generator=draws) - 1) * bound
        weight_rkf, bias_rk = weight_kf.repeat(backbones, 1, 1), bias_k.repeat(backbones, 1)
        return cls(weight_rkf.to(device), bias_rk.to(device))

    def logits(self, x_rbf: Tensor) -> Tensor:
        """Logits of every backbone, shape (r, b, k)."""
        return torch.baddbmm(self.bias_rk[:, None], x_rbf, self.weight_rkf.transpose(1, 2))


def train_heads(
    features_of: FeaturesOf, labels_n: Tensor, heads: Heads, config: ProbeConfig
) -> Heads:
    """Fit every head by SGD with Nesterov momentum, no weight decay and no warm-up.

    The loss is summed over backbones, so each head gets just its own gradient.
    """
    weight_rkf = heads.weight_rkf.requires_grad_()
    bias_rk = heads.bias_rk.requires_grad_()
    optimizer = torch.optim.SGD(
        [weight_rkf, bias_rk], lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0
    )
    order = generator(config.seed, "probe order")
    steps = config.epochs * -(-len(labels_n) // config.batch_size)
    step = 0
    for _ in range(config.epochs):
        for chosen in epoch_batches(len(labels_n), config.batch_size, order):
            share = step / steps if config.schedule == "cosine" else 0.0
            optimizer.param_groups[0]["lr"] = config.lr * cosine(share)
            optimizer.zero_grad()
            chosen = chosen.to(labels_n.device)
            logits_rbk = heads.logits(features_of(chosen))
            labels_b = labels_n[chosen]
            loss = sum(F.cross_entropy(logits_bk, labels_b) for logits_bk in logits_rbk)
            assert isinstance(loss, Tensor)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
            optimizer.step()
            step += 1
    weight_rkf.requires_grad_(False)
    bias_rk.requires_grad_(False)
    return heads


def as_taken(images_nchw: Tensor, channels: int) -> Tensor:
    """A target's images as a backbone of so many channels takes them: grey ones in each of them.

    Raises:
        ConfigError: if the images are not grey and have another number of channels.

    Example:
        >>> as_taken(torch.zeros(2, 1, 8, 8), 3).shape
        torch.Size([2, 3, 8, 8])
    """
    given = images_nchw.shape[1]
    if given not in (1, channels):
        takes = "1, as grey images have" if channels == 1 else f"{channels}, or 1 for grey images"
        raise ConfigError(
            f"channels of a probe's target is {given}; expected {takes}, as the network takes. "
            "Convert its images, or leave the target out."
        )
    return images_nchw.expand(-1, channels, -1, -1)


def run_probe(
    config: ProbeConfig,
    data: Partition,
    sources: Mapping[str, ImageSet],
    out: Path,
    *,
    device: torch.device = _CPU,
) -> None:
    """Probe every arm of every backbone and write the logits on the target's test set.

    Args:
        config: What to probe.
        data: The target, without hold-out.
        sources: What each backbone was trained on, by run id.
        out: The output folder with the backbones' runs; arms come out as `<run id>.<arm>`.
        device: Where to compute.
    """
    images = DeviceImages(data, padding=0, flip=False, device=device)
    target = _Target(
        train_nchw=images.normalise(data.train_images_nchw),
        labels_n=images.labels_n,
        test_nchw=images.normalise(data.test_images_nchw),
        classes=len(data.classes),
    )

    def backbones() -> Backbones:
        for run in config.backbones:
            source = sources[run.id]
            channels = source.images_nchw.shape[1]
            taken = target.taken_in(channels)
            model = build(
                run.model,
                classes=len(source.classes),
                channels=channels,
                image_size=taken.train_nchw.shape[2],
                generator_seed=0,
            )
            for arm in config.arms:
                model.load_state_dict(load_weights(run_folder(out, run.id).arm(arm))[arm])
                yield f"{run.id}.{arm}", model.to(device).eval(), taken

    probed = _adapting if config.batchnorm == "adapts" else _frozen
    logits = probed(config, backbones(), target)
    write_predictions(
        run_folder(out, config.id).predictions,
        arms={"test": {name: logits_nk.cpu() for name, logits_nk in logits.items()}},
        labels={"test": {"labels": data.test_labels_n}},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """The task of a probe: images on the device, as the networks take them."""

    train_nchw: Tensor
    labels_n: Tensor
    """Of the training images."""

    test_nchw: Tensor
    classes: int

    def taken_in(self, channels: int) -> "_Target":
        """The same with so many channels."""
        train_nchw, test_nchw = (as_taken(x, channels) for x in (self.train_nchw, self.test_nchw))
        return replace(self, train_nchw=train_nchw, test_nchw=test_nchw)


Backbones = Iterator[tuple[str, nn.Module, _Target]]
"""Name, network, and the target's images as it takes them."""


def _frozen(config: ProbeConfig, backbones: Backbones, target: _Target) -> dict[str, Tensor]:
    """Logits on the test images by name: features once, all heads together."""
    names, train, test = [], [], []
    for name, model, taken in backbones:
        names.append(name)
        train.append(_features(model, taken.train_nchw))
        test.append(_features(model, taken.test_nchw))
    train_rnf = torch.stack(train)
    device, inputs = target.train_nchw.device, train_rnf.shape[2]
    heads = Heads.initialised(len(names), inputs, target.classes, config.seed, device=device)
    train_heads(lambda chosen: train_rnf[:, chosen], target.labels_n, heads, config)
    return dict(zip(names, heads.logits(torch.stack(test)), strict=True))


def _adapting(config: ProbeConfig, backbones: Backbones, target: _Target) -> dict[str, Tensor]:
    """The same where every step changes the statistics, so that each head is trained alone."""
    found, device = {}, target.train_nchw.device
    for name, model, taken in backbones:
        inputs = _features(model, taken.train_nchw[:1]).shape[1]
        heads = Heads.initialised(1, inputs, target.classes, config.seed, device=device)
        adapting = partial(_adapted, model, taken.train_nchw)
        for layer in _norms(model):
            layer.train()
        train_heads(adapting, target.labels_n, heads, config)
        model.eval()
        found[name] = heads.logits(_features(model, taken.test_nchw)[None])[0]
    return found


@torch.no_grad()
def _adapted(model: nn.Module, train_nchw: Tensor, chosen: Tensor) -> Tensor:
    return features(model, train_nchw[chosen])[None]


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


@torch.no_grad()
def _features(model: nn.Module, images_nchw: Tensor) -> Tensor:
    return torch.cat([features(model, x) for x in torch.split(images_nchw, EVALUATION_BATCH)])
