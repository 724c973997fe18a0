"""The paper's networks in their forms for small images, small ones for CPUs, and transformers."""

from typing import TYPE_CHECKING

from polyak.lazy import lazily

if TYPE_CHECKING:
    from polyak.models.building import MODELS as MODELS
    from polyak.models.building import build as build
    from polyak.models.building import check_fit as check_fit
    from polyak.models.building import pinned as pinned
    from polyak.models.building import pinned_whole as pinned_whole
    from polyak.models.config import ModelConfig as ModelConfig
    from polyak.models.head_input import features as features
    from polyak.models.resnet import ResNet as ResNet
    from polyak.models.resnet import resnet8 as resnet8
    from polyak.models.resnet import resnet18 as resnet18
    from polyak.models.resnet import resnet20 as resnet20
    from polyak.models.resnet import resnet34 as resnet34
    from polyak.models.transformer import GPT as GPT
    from polyak.models.transformer import ViT as ViT
    from polyak.models.transformer import gpt as gpt
    from polyak.models.transformer import vit as vit
    from polyak.models.trial import try_network as try_network
    from polyak.models.vgg import VGG as VGG
    from polyak.models.vgg import vgg16 as vgg16
    from polyak.models.wide_resnet import WideResNet as WideResNet
    from polyak.models.wide_resnet import wrn28_10 as wrn28_10

_HOMES = {
    "building": ("MODELS", "build", "check_fit", "pinned", "pinned_whole"),
    "config": ("ModelConfig",),
    "head_input": ("features",),
    "resnet": ("ResNet", "resnet8", "resnet18", "resnet20", "resnet34"),
    "transformer": ("GPT", "ViT", "gpt", "vit"),
    "trial": ("try_network",),
    "vgg": ("VGG", "vgg16"),
    "wide_resnet": ("WideResNet", "wrn28_10"),
}

if not TYPE_CHECKING:
    __getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
