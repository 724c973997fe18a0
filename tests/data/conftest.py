"""Small files in the official formats of real data sets, and no network for any test here."""

import gzip
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from polyak.data import ImageSet


@pytest.fixture(autouse=True)
def at_home(tmp_path_factory, monkeypatch):
    """Caches in a temporary folder, and an error on every attempt to reach a network."""

    def refuse(*_):
        raise AssertionError("a test reached for the network")

    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("POLYAK_CACHE", str(home / "polyak"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def pixels() -> Callable[..., np.ndarray]:
    """Random uint8 arrays of a shape, the same for the same seed."""

    def draw(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return draw


@pytest.fixture
def image_set(pixels) -> Callable[..., ImageSet]:
    """An ImageSet in which the classes take turns."""

    def make(n: int, *, classes: int = 4, channels: int = 1, side: int = 6, seed: int = 0):
        return ImageSet(
            images_nchw=torch.from_numpy(pixels(n, channels, side, side, seed=seed)),
            labels_n=torch.arange(n) % classes,
            classes=tuple(f"class {c}" for c in range(classes)),
        )

    return make


@pytest.fixture
def write_idx() -> Callable[[Path, np.ndarray], None]:
    """Write a uint8 array as an IDX file, with gzip where the name says so."""

    def write(path: Path, array: np.ndarray) -> None:
        header = bytes([0, 0, 8, array.ndim]) + b"".join(s.to_bytes(4, "big") for s in array.shape)
        content = header + array.tobytes()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)

    return write


@pytest.fixture
def idx_folder(tmp_path, pixels, write_idx) -> Path:
    """MNIST in small: the four IDX files, two of them with gzip."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte.gz", pixels(12, 5, 5))
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(12, dtype=np.uint8) % 3)
    write_idx(folder / "t10k-images-idx3-ubyte", pixels(6, 5, 5, seed=1))
    write_idx(folder / "t10k-labels-idx1-ubyte", np.arange(6, dtype=np.uint8) % 3)
    return folder


@pytest.fixture
def write_parquet() -> Callable[..., None]:
    """Write columns as one parquet file of the hub: images as PNG, names as ClassLabel."""

    def write(path: Path, images: list[np.ndarray], names: dict[str, list[str]], **columns):
        import datasets
        from PIL import Image

        features = {"img": datasets.Image()}
        for column, values in columns.items():
            known = names.get(column)
            plain = datasets.Value("string" if isinstance(values[0], str) else "int64")
            features[column] = datasets.ClassLabel(names=known) if known else plain
            assert len(values) == len(images)
        rows = {"img": [Image.fromarray(image) for image in images], **columns}
        path.parent.mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        table.to_parquet(path)

    return write


@pytest.fixture
def cifar100_folder(tmp_path, pixels, write_parquet) -> Path:
    """CIFAR-100 in small, in the layout of `uoft-cs/cifar100`: fine and coarse labels."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    folder = tmp_path / "cifar100-small"
    names = {"fine_label": ["apple", "bear", "worm"], "coarse_label": ["animal", "fruit"]}
    for split, n, seed in (("train", 9, 0), ("test", 6, 1)):
        fine = [i % 3 for i in range(n)]
        write_parquet(
            folder / "cifar100" / f"{split}-00000-of-00001.parquet",
            list(pixels(n, 8, 8, 3, seed=seed)),
            names,
            fine_label=fine,
            coarse_label=[1 if f == 0 else 0 for f in fine],
        )
    if shown:
        datasets.enable_progress_bars()
    return folder


@pytest.fixture
def write_image() -> Callable[[Path, np.ndarray], None]:
    """Write an array as an image file, in the format of its suffix."""

    def write(path: Path, array: np.ndarray) -> None:
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    return write


@pytest.fixture
def class_folder(tmp_path, pixels, write_image) -> Path:
    """Folders of PNG images, one for each class."""
    folder = tmp_path / "pets [old]"
    for split, n in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(n):
                seed = 10 * label + i + (100 if split == "test" else 0)
                write_image(folder / split / name / f"{i}.png", pixels(6, 7, 3, seed=seed))
    return folder


@pytest.fixture
def tiny_imagenet_folder(tmp_path, pixels, write_image) -> Path:
    """Tiny-ImageNet in small, in its own tree: two classes, one picture of them grey."""
    folder = tmp_path / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(("n01443537", "n01629819")):
        for i in range(3):
            shape = (64, 64) if (label, i) == (0, 0) else (64, 64, 3)
            write_image(
                folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG",
                np.full(shape, 40 * label + 10 * i, np.uint8),
            )
        name = f"val_{1 - label}.JPEG"
        write_image(folder / "val" / "images" / name, pixels(64, 64, 3, seed=label))
        lines.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def write_cifar_n() -> Callable[..., None]:
    """Write a CIFAR-N file as the authors' do: a pickle by numpy 1, whose module was `core`."""

    def write(path: Path, **arrays: object) -> None:
        modern = path.with_suffix(".modern")
        torch.save(arrays, modern)
        with zipfile.ZipFile(modern) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                content = source.read(name).replace(b"numpy._core", b"numpy.core")
                target.writestr(name, content)
        modern.unlink()

    return write
