"""A cache of its own, a study of one small row, and the paper's data sets in small."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig


@pytest.fixture(scope="session")
def study_cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True, scope="module")
def cache(study_cache_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(study_cache_folder))
        yield


@pytest.fixture
def row() -> Row:
    digits = DataConfig(train_limit=90, test_limit=40, crop_padding=1)
    parity = DataConfig(source="digits-parity", train_limit=60, test_limit=40, crop_padding=0)
    return Row(
        label="small digits",
        dataset="digits",
        architecture="ResNet-8",
        config=RunConfig(
            data=digits,
            model=ModelConfig(name="resnet8", width=4),
            optim=OptimConfig(warmup_epochs=1),
            averaging=AveragingConfig(decays=(0.2, 0.9), every=2),
            epochs=3,
            batch_size=32,
        ),
        learning_rates=(0.05, 0.1),
        seeds=(0, 1),
        paper_decays=(0.968, 0.998),
        transfer=(parity,),
    )


@pytest.fixture
def study(row) -> Study:
    return Study(name="small", title="A small study", cost="moments", rows=(row,))


@pytest.fixture(scope="session")
def official(tmp_path_factory) -> dict[str, Path]:
    """What the paper's studies read, in small but in the official formats, by place."""
    folder = tmp_path_factory.mktemp("official")
    return {
        "cifar10": _parquet(folder / "cifar10", "plain_text", label=("cat", "dog", "frog")),
        "cifar100": _parquet(
            folder / "cifar100",
            "cifar100",
            fine_label=("apple", "bear", "worm", "wolf"),
            coarse_label=("animal", "fruit"),
        ),
        "tiny-imagenet": _tiny_imagenet(folder / "tiny-imagenet-200"),
        "cifar10n": _human_labels(folder / "CIFAR-10_human.pt", "worse_label", classes=3),
        "cifar100n": _human_labels(folder / "CIFAR-100_human.pt", "noisy_label", classes=4),
    }


TRAIN, TEST = 72, 16


def _pictures(n: int, *, classes: int, side: int) -> list[np.ndarray]:
    """Noise in the colour of its class, so that there is something to learn."""
    draws = np.random.default_rng(n)
    noise = draws.integers(0, 100, (n, side, side, 3), dtype=np.uint8)
    for i, image in enumerate(noise):
        image[..., i % classes % 3] += 40 * (1 + i % classes)
    return list(noise)


def _parquet(folder: Path, config: str, **names: tuple[str, ...]) -> Path:
    """The layout of the hub's repositories: one column of labels for each set of names."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    classes = len(next(iter(names.values())))
    columns = {name: datasets.ClassLabel(names=list(known)) for name, known in names.items()}
    for split, n in (("train", TRAIN), ("test", TEST)):
        images = [Image.fromarray(a) for a in _pictures(n, classes=classes, side=32)]
        labels = {
            name: [i % classes % len(known) for i in range(n)] for name, known in names.items()
        }
        table = datasets.Dataset.from_dict(
            {"img": images, **labels}, features=datasets.Features(img=datasets.Image(), **columns)
        )
        path = folder / config / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
    if shown:
        datasets.enable_progress_bars()
    return folder


def _tiny_imagenet(folder: Path) -> Path:
    """Its own tree: the official validation images, with annotations, are the test set."""
    wnids = ("n01443537", "n01629819", "n01641577")
    (folder / "val" / "images").mkdir(parents=True)
    for i, picture in enumerate(_pictures(TRAIN, classes=3, side=64)):
        home = folder / "train" / wnids[i % 3] / "images"
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(home / f"{wnids[i % 3]}_{i}.JPEG")
    lines = []
    for i, picture in enumerate(_pictures(TEST, classes=3, side=64)):
        Image.fromarray(picture).save(folder / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{wnids[i % 3]}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def _human_labels(path: Path, key: str, *, classes: int) -> Path:
    """A CIFAR-N file: a fifth of the labels wrong."""
    clean = np.arange(TRAIN) % classes
    wrong = np.arange(TRAIN) % 5 == 0
    torch.save({"clean_label": clean, key: np.where(wrong, (clean + 1) % classes, clean)}, path)
    return path
