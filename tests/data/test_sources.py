import numpy as np
import pytest
import torch

from polyak.data import DataConfig
from polyak.data.config import name_of
from polyak.data.sources import decode, find
from polyak.errors import ConfigError, DataError


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    digits = decode(DataConfig())
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    theirs = load_digits()
    # Each of their images is in exactly one part.
    rows = {(*image.ravel().astype(int), label): 0 for image, label in
            zip(theirs.images, theirs.target, strict=True)}  # fmt: skip
    for part in (digits.train, digits.test):
        values = np.rint(part.images_nchw.numpy() * (16 / 255)).astype(int)
        for image, label in zip(values, part.labels_n.tolist(), strict=True):
            rows[(*image.ravel(), label)] += 1
    assert sum(rows.values()) == 1797
    assert digits.train.images_nchw.max() == 255
    share = digits.test.labels_n.bincount() / torch.from_numpy(np.bincount(theirs.target))
    assert bool(((share - 0.2).abs() < 0.01).all())


def test_parity_has_the_digits_images_and_split():
    digits, parity = decode(DataConfig()), decode(DataConfig(source="digits-parity"))
    assert parity.train.classes == ("even", "odd")
    for part in ("train", "test"):
        ours, theirs = getattr(parity, part), getattr(digits, part)
        assert torch.equal(ours.images_nchw, theirs.images_nchw)
        assert torch.equal(ours.labels_n, theirs.labels_n % 2)
    assert parity.fingerprint != digits.fingerprint


@pytest.mark.parametrize(
    ("fixture", "shape", "classes"),
    [
        ("idx_folder", (12, 1, 5, 5), 3),
        ("cifar100_folder", (9, 3, 8, 8), 3),
        ("class_folder", (6, 3, 6, 7), 2),
        ("tiny_imagenet_folder", (6, 3, 64, 64), 2),
    ],
)
def test_a_folder_is_known_by_what_it_holds(request, fixture, shape, classes):
    folder = request.getfixturevalue(fixture)
    dataset = decode(DataConfig(source=str(folder)))
    assert dataset.train.images_nchw.shape == shape
    assert len(dataset.train.classes) == classes
    assert dataset.name == folder.name


@pytest.mark.parametrize(
    ("source", "phrase"),
    [
        ("digitz", "expected one of digits, .*Did you mean 'digits'"),
        ("/nowhere/at/all", "source is '/nowhere/at/all'; expected a folder there"),
        ("nowhere.py:load", r"expected a Python file at 'nowhere\.py'"),
    ],
)
def test_a_source_that_is_nothing_is_refused(source, phrase):
    with pytest.raises(DataError, match=phrase):
        decode(DataConfig(source=source))


def test_folders_and_files_that_hold_nothing_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="holds no data set; expected parquet files"):
        find(DataConfig(source=str(tmp_path)))
    with pytest.raises(DataError, match="a file; expected a folder"):
        find(DataConfig(source=str(tmp_path / "notes.txt")))


def test_fashion_mnist_without_debians_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("polyak.data.formats.idx.DEBIAN_FOLDER", tmp_path)
    with pytest.raises(DataError, match=r"lacks train-images.*`dataset-fashion-mnist`"):
        find(DataConfig(source="fashion-mnist"))


def test_columns_are_refused_where_there_is_no_table(idx_folder):
    with pytest.raises(DataError, match="label_column is 'x'; expected None"):
        find(DataConfig(source=str(idx_folder), label_column="x"))


def test_faulty_settings_are_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match=r"data: holdout is 2\.0.*; crop_padding is -1"):
        decode(DataConfig(source="/nowhere", holdout=2.0, crop_padding=-1))


def test_an_empty_training_class_is_refused(class_folder):
    for path in (class_folder / "train" / "dog").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"train has no image of 1 classes \(dog\)"):
        decode(DataConfig(source=str(class_folder)))


def test_hub_names_and_their_aliases_are_the_same_source(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "polyak.data.formats.tables.hub_identity", lambda name, _: asked.append(name) or "x"
    )
    prints = [
        find(DataConfig(source=source)).identity()
        for source in ("cifar100", "uoft-cs/cifar100", "tiny-imagenet")
    ]
    assert asked == ["uoft-cs/cifar100", "uoft-cs/cifar100", "zh-plus/tiny-imagenet"]
    assert prints[0] == prints[1]


def test_names_are_short(tmp_path):
    assert name_of("uoft-cs/cifar10") == name_of("cifar10") == "cifar10"
    assert name_of(str(tmp_path / "a" / "mine.py") + ":load") == "mine"
    assert name_of(f"{tmp_path}/birds/") == "birds"
