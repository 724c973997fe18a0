"""What is timed: models of known size, and one way to use each averager on them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version

import torch
from diffusers.training_utils import EMAModel
from ema_pytorch import EMA as EMAPyTorch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch_ema import ExponentialMovingAverage

from polyak import EMA, Averager
from polyak.models import ModelConfig, build

DECAYS = (0.968, 0.984, 0.992, 0.996, 0.998)


@dataclass(frozen=True)
class Subject:
    """A tool with one or several averages of a model."""

    update: Callable[[], object]
    swap: Callable[[], AbstractContextManager[object]] | None = None
    """Lends an average to the model; None where the tool keeps a second model instead."""


def ours(model: nn.Module, averages: int, *, nonfinite: str = "skip") -> Subject:
    kinds = [EMA(decay, warmup=None) for decay in DECAYS[-averages:]]
    averager = Averager(model, kinds, nonfinite=nonfinite)
    return Subject(averager.update, lambda: averager.applied(averager.names[-1]))


def ours_allow(model: nn.Module, averages: int) -> Subject:
    return ours(model, averages, nonfinite="allow")


def torch_swa_utils(model: nn.Module, averages: int) -> Subject:
    """Buffers averaged too, by the fused function; integer ones make it raise, so they go."""
    copies = [
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(d), use_buffers=False)
        for d in DECAYS[-averages:]
    ]
    return Subject(lambda: [copy.update_parameters(model) for copy in copies])


def ema_pytorch(model: nn.Module, averages: int) -> Subject:
    copies = [
        EMAPyTorch(
            model,
            beta=d,
            min_value=d,
            update_after_step=0,
            update_every=1,
            include_online_model=False,
            use_foreach=True,
        )
        for d in DECAYS[-averages:]
    ]
    return Subject(lambda: [copy.update() for copy in copies])


def torch_ema(model: nn.Module, averages: int) -> Subject:
    copies = [
        ExponentialMovingAverage(model.parameters(), decay=d, use_num_updates=False)
        for d in DECAYS[-averages:]
    ]
    return Subject(
        lambda: [copy.update() for copy in copies], lambda: copies[-1].average_parameters()
    )


def diffusers(model: nn.Module, averages: int) -> Subject:
    parameters = list(model.parameters())
    copies = [EMAModel(parameters, decay=d, min_decay=d, foreach=True) for d in DECAYS[-averages:]]
    return Subject(lambda: [copy.step(parameters) for copy in copies])


def five_lines(model: nn.Module, averages: int) -> Subject:
    """The least that one would write: lists made once, no check and no guard."""
    weights = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    live = [x.detach() for x in weights]
    shadows = [([x.clone() for x in live], 1 - decay) for decay in DECAYS[-averages:]]
    return Subject(lambda: [torch._foreach_lerp_(shadow, live, w) for shadow, w in shadows])


SUBJECTS: dict[str, Callable[[nn.Module, int], Subject]] = {
    "polyak": ours,
    "polyak, no guard": ours_allow,
    "torch.optim.swa_utils": torch_swa_utils,
    "ema-pytorch, foreach": ema_pytorch,
    "torch-ema": torch_ema,
    "diffusers, foreach": diffusers,
    "five lines of foreach": five_lines,
}
OURS = ("polyak", "polyak, no guard")
BASELINE = "five lines of foreach"
"""No tool: it is compared, but never the best other one."""


def versions() -> str:
    """Versions of everything that is compared."""
    names = ("torch", "ema-pytorch", "torch-ema", "diffusers", "polyak")
    return ", ".join(f"{name} {version(name)}" for name in names)


class ResNet50Sized(nn.Module):
    """The layers of a ResNet-50 for 1,000 classes, never run: 25.6M parameters in 161 tensors."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, bias=False), nn.BatchNorm2d(64)]
        c_in = 64
        for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
            for block in range(blocks):
                sizes = [(c_in, width, 1), (width, width, 3), (width, 4 * width, 1)]
                sizes += [(c_in, 4 * width, 1)] if block == 0 else []
                for a, b, kernel in sizes:
                    layers += [nn.Conv2d(a, b, kernel, bias=False), nn.BatchNorm2d(b)]
                c_in = 4 * width
        self.layers = nn.ModuleList([*layers, nn.Linear(2048, 1000)])


class GPT2Sized(nn.Module):
    """The weights of the smallest GPT-2, never run: 124M parameters in 148 tensors."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Embedding(50257, 768), nn.Embedding(1024, 768)]
        for _ in range(12):
            layers += [nn.LayerNorm(768), nn.Linear(768, 2304), nn.Linear(768, 768)]
            layers += [nn.LayerNorm(768), nn.Linear(768, 3072), nn.Linear(3072, 768)]
        self.layers = nn.ModuleList([*layers, nn.LayerNorm(768)])


def _convolution(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)


def strided(model: nn.Module) -> nn.Module:
    """The same with every second column of a matrix twice as wide, so that there are gaps."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            wide = torch.zeros(*parameter.shape[:-1], 2 * parameter.shape[-1])
            parameter.data = wide[..., ::2].copy_(parameter.data)
    return model


def subject_model(name: str) -> nn.Module:
    """A model by its name in the tables."""
    if name == "resnet50-sized":
        return ResNet50Sized()
    if name == "gpt2-sized":
        return GPT2Sized()
    if name == "tiny":
        return nn.Sequential(nn.Linear(64, 100), nn.Linear(100, 30), nn.Linear(30, 10))
    if name == "small-batchnorm":
        return nn.Sequential(*(layer for _ in range(20) for layer in _convolution(16)))
    if name.endswith("-channels-last"):
        return subject_model(name.removesuffix("-channels-last")).to(
            memory_format=torch.channels_last
        )
    if name.endswith("-strided"):
        return strided(subject_model(name.removesuffix("-strided")))
    size = ModelConfig(name=name)
    return build(size, classes=100, channels=3, image_size=32, generator_seed=0)


def shrunk(model: nn.Module) -> nn.Module:
    """The same structure with four values a tensor: what is left is the host's time."""
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.data = torch.zeros(4)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = torch.zeros(4)
    return model
