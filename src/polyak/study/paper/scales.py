"""What a study's rows are at each scale: numbers in one table, no code.

paper   as published: sections 3.1, 4.1 and appendix F; learning rates of the paper's own search
        (table 21) for ResNet-18, of its appendix B and its authors' scripts for the others
small   ours: a fifth of the images, 30 epochs, networks for CPUs
tiny    ours: shows that everything runs; its numbers mean nothing
"""

from collections.abc import Mapping
from dataclasses import dataclass

from polyak.models import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How one row trains."""

    model: ModelConfig
    learning_rates: tuple[float, ...]
    """Learning rates of the search."""

    fixed_learning_rate: float
    """The one for studies that show dynamics and need no search; one of `learning_rates`."""

    weight_decay: float
    epochs: int
    train_limit: int | None = None
    """Images to train on, hold-out included. None: all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What all rows of a scale have in common, and each row's own."""

    seeds: tuple[int, ...]
    batch_size: int
    every: int
    """Optimizer steps per update of the averages: the paper's T."""

    warmup_epochs: float
    test_limit: int | None
    trainings: Mapping[str, Training]
    """By row."""


_RESNET18 = ModelConfig(name="resnet18")
_RESNET34 = ModelConfig(name="resnet34")
_RESNET20 = ModelConfig(name="resnet20", width=16)
_RESNET8 = ModelConfig(name="resnet8", width=4)
_PAPERS_GRID = (0.4, 0.8, 1.2, 1.6)
_SMALL_GRID = (0.1, 0.2, 0.4)

SCALES = {
    "paper": Scale(
        seeds=(0, 1, 2),
        batch_size=128,
        every=16,
        warmup_epochs=5,
        test_limit=None,
        trainings={
            "cifar100-resnet18": Training(
                model=_RESNET18,
                learning_rates=_PAPERS_GRID,
                fixed_learning_rate=1.2,
                weight_decay=1e-4,
                epochs=200,
            ),
            "cifar100-vgg16": Training(
                model=ModelConfig(name="vgg16"),
                learning_rates=(0.05,),
                fixed_learning_rate=0.05,
                weight_decay=5e-4,
                epochs=200,
            ),
            "cifar100-wrn28_10": Training(
                model=ModelConfig(name="wrn28_10"),
                learning_rates=(0.1,),
                fixed_learning_rate=0.1,
                weight_decay=5e-4,
                epochs=200,
            ),
            "cifar10-resnet18": Training(
                model=_RESNET18,
                learning_rates=_PAPERS_GRID,
                fixed_learning_rate=0.4,
                weight_decay=1e-4,
                epochs=200,
            ),
            "tiny-imagenet-resnet18": Training(
                model=_RESNET18,
                learning_rates=(0.8,),
                fixed_learning_rate=0.8,
                weight_decay=1e-4,
                epochs=150,
            ),
            "cifar10n-resnet34": Training(
                model=_RESNET34,
                learning_rates=(0.8,),
                fixed_learning_rate=0.8,
                weight_decay=1e-4,
                epochs=200,
            ),
            "cifar100n-resnet34": Training(
                model=_RESNET34,
                learning_rates=(0.8,),
                fixed_learning_rate=0.8,
                weight_decay=1e-4,
                epochs=200,
            ),
        },
    ),
    "small": Scale(
        seeds=(0, 1, 2),
        batch_size=64,
        every=4,
        warmup_epochs=3,
        test_limit=None,
        trainings={
            "cifar100-resnet18": Training(
                model=_RESNET20,
                learning_rates=_SMALL_GRID,
                fixed_learning_rate=0.2,
                weight_decay=1e-4,
                epochs=30,
                train_limit=10_000,
            ),
            "cifar100-vgg16": Training(
                model=ModelConfig(name="resnet8", width=16),
                learning_rates=(0.2,),
                fixed_learning_rate=0.2,
                weight_decay=5e-4,
                epochs=30,
                train_limit=10_000,
            ),
            "cifar100-wrn28_10": Training(
                model=ModelConfig(name="resnet8", width=32),
                learning_rates=(0.1,),
                fixed_learning_rate=0.1,
                weight_decay=5e-4,
                epochs=30,
                train_limit=10_000,
            ),
            "cifar10-resnet18": Training(
                model=_RESNET20,
                learning_rates=_SMALL_GRID,
                fixed_learning_rate=0.2,
                weight_decay=1e-4,
                epochs=30,
                train_limit=10_000,
            ),
            "tiny-imagenet-resnet18": Training(
                model=ModelConfig(name="resnet8", width=16),
                learning_rates=(0.2,),
                fixed_learning_rate=0.2,
                weight_decay=1e-4,
                epochs=30,
                train_limit=10_000,
            ),
            "cifar10n-resnet34": Training(
                model=_RESNET20,
                learning_rates=(0.2,),
                fixed_learning_rate=0.2,
                weight_decay=1e-4,
                epochs=30,
                train_limit=10_000,
            ),
            "cifar100n-resnet34": Training(
                model=_RESNET20,
                learning_rates=(0.2,),
                fixed_learning_rate=0.2,
                weight_decay=1e-4,
                epochs=30,
                train_limit=10_000,
            ),
        },
    ),
    "tiny": Scale(
        seeds=(0, 1),
        batch_size=8,
        every=1,
        warmup_epochs=1,
        test_limit=200,
        # Enough images for every class of the real data sets to be in the hold-out's draw.
        trainings={
            "cifar100-resnet18": Training(
                model=_RESNET8,
                learning_rates=(0.05, 0.1),
                fixed_learning_rate=0.1,
                weight_decay=1e-4,
                epochs=2,
                train_limit=1_000,
            ),
            "cifar100-vgg16": Training(
                model=_RESNET8,
                learning_rates=(0.05,),
                fixed_learning_rate=0.05,
                weight_decay=5e-4,
                epochs=2,
                train_limit=1_000,
            ),
            "cifar100-wrn28_10": Training(
                model=ModelConfig(name="resnet8", width=8),
                learning_rates=(0.05,),
                fixed_learning_rate=0.05,
                weight_decay=5e-4,
                epochs=2,
                train_limit=1_000,
            ),
            "cifar10-resnet18": Training(
                model=_RESNET8,
                learning_rates=(0.1,),
                fixed_learning_rate=0.1,
                weight_decay=1e-4,
                epochs=2,
                train_limit=500,
            ),
            "tiny-imagenet-resnet18": Training(
                # Not narrower: with 4 or 8 channels on images of 64 pixels in channels_last,
                # training crashed on a CPU with AVX-512 and torch 2.13; the cause is not known.
                model=ModelConfig(name="resnet8", width=16),
                learning_rates=(0.1,),
                fixed_learning_rate=0.1,
                weight_decay=1e-4,
                epochs=2,
                train_limit=1_200,
            ),
            "cifar10n-resnet34": Training(
                model=_RESNET8,
                learning_rates=(0.1,),
                fixed_learning_rate=0.1,
                weight_decay=1e-4,
                epochs=2,
                train_limit=500,
            ),
            "cifar100n-resnet34": Training(
                model=_RESNET8,
                learning_rates=(0.1,),
                fixed_learning_rate=0.1,
                weight_decay=1e-4,
                epochs=2,
                train_limit=1_500,
            ),
        },
    ),
}
