"""The paper's networks in their forms for small images, small ones for CPUs, and a transformer."""

from typing import TYPE_CHECKING

from polyak.lazy import lazily

if TYPE_CHECKING:
    from polyak.models.building import MODELS, build, check_fit, pinned, pinned_whole
    from polyak.models.config import ModelConfig
    from polyak.models.head_input import features
    from polyak.models.resnet import ResNet, resnet8, resnet18, resnet20, resnet34
    from polyak.models.transformer import ViT, vit
    from polyak.models.trial import try_network
    from polyak.models.vgg import VGG, vgg16
    from polyak.models.wide_resnet import WideResNet, wrn28_10

__all__ = [
    "MODELS",
    "ModelConfig",
    "build",
    "check_fit",
    "features",
    "pinned",
    "pinned_whole",
    "try_network",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet34",
    "vgg16",
    "wrn28_10",
    "vit",
    "ResNet",
    "VGG",
    "ViT",
    "WideResNet",
]

_HOMES = {
    "building": ("MODELS", "build", "check_fit", "pinned", "pinned_whole"),
    "config": ("ModelConfig",),
    "head_input": ("features",),
    "resnet": ("ResNet", "resnet8", "resnet18", "resnet20", "resnet34"),
    "transformer": ("ViT", "vit"),
    "trial": ("try_network",),
    "vgg": ("VGG", "vgg16"),
    "wide_resnet": ("WideResNet", "wrn28_10"),
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, _HOMES)
