import shutil

import numpy as np
import pytest
import torch

from polyak.data.formats.folders import (
    class_folders,
    decode_tiny_imagenet,
    files_below,
    is_tiny_imagenet,
    parquet_files,
    tiny_imagenet_files,
)
from polyak.errors import DataError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["train.parquet", "test.parquet"], ["train.parquet"], ["test.parquet"]),
        (["train_a.parquet", "train_b.parquet", "test-1.parquet", "readme.md"],
         ["train_a.parquet", "train_b.parquet"], ["test-1.parquet"]),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
          "data/valid-00000-of-00001.parquet"],
         ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
         ["valid-00000-of-00001.parquet"]),
        (["train.parquet", "validation.parquet", "test.parquet"],
         ["train.parquet"], ["test.parquet"]),
    ],
)  # fmt: skip
def test_parquet_files_are_found_by_the_name_of_their_split(tmp_path, names, train, test):
    found = parquet_files(touch(tmp_path, *names))
    assert [path.name for path in found["train"]] == train
    assert [path.name for path in found["test"]] == test


@pytest.mark.parametrize(
    ("names", "phrase"),
    [
        (["train.parquet"], "parquet files of train; expected train and one of test"),
        (["test.parquet"], "parquet files of test;"),
        (["a/train.parquet", "b/train.parquet"], "several data sets; expected one of .*/a'.*/b'"),
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet", "test.parquet"],
         "has 2 of the 3 files"),
    ],
)  # fmt: skip
def test_incomplete_folders_of_parquet_files_are_refused(tmp_path, names, phrase):
    with pytest.raises(DataError, match=phrase):
        parquet_files(touch(tmp_path, *names))


def test_a_folder_without_such_files_is_none_of_its_kind(tmp_path):
    touch(tmp_path, "training.parquet", "a/b/train.parquet", "train.csv")
    assert parquet_files(tmp_path) == {}
    assert class_folders(tmp_path) == {}
    assert not is_tiny_imagenet(tmp_path)


def test_every_file_of_class_folders_is_listed(class_folder):
    found = class_folders(class_folder)
    assert set(files_below(found)) == {
        *(f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(3)),
        *(f"test/{name}/{i}.png" for name in ("cat", "dog") for i in range(2)),
    }


def test_class_folders_without_a_test_part_are_refused(class_folder):
    shutil.rmtree(class_folder / "test")
    with pytest.raises(DataError, match="class folders in train only"):
        class_folders(class_folder)


def test_tiny_imagenets_validation_split_is_the_test_set(tiny_imagenet_folder, pixels):
    assert is_tiny_imagenet(tiny_imagenet_folder)
    train, test = decode_tiny_imagenet(tiny_imagenet_files(tiny_imagenet_folder))
    assert train.classes == ("n01443537", "n01629819")
    assert train.images_nchw.shape == (6, 3, 64, 64)  # the grey picture became RGB
    assert train.labels_n.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.images_nchw.float().mean((1, 2, 3)).tolist() == pytest.approx(
        [0, 10, 20, 40, 50, 60], abs=1
    )
    # val_0 belongs to the second class: labels come from the annotations, not from an order.
    assert test.labels_n.tolist() == [1, 0]
    noise = torch.from_numpy(np.stack([pixels(64, 64, 3, seed=s) for s in (1, 0)]))
    near = (test.images_nchw.float() - noise.permute(0, 3, 1, 2)).abs().mean((1, 2, 3))
    crossed = (test.images_nchw.flip(0).float() - noise.permute(0, 3, 1, 2)).abs().mean((1, 2, 3))
    assert bool((near < crossed).all())


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda f: (f / "val" / "val_annotations.txt").unlink(), "not a complete Tiny-ImageNet"),
        (lambda f: shutil.rmtree(f / "val" / "images"), "not a complete Tiny-ImageNet"),
        (lambda f: (f / "val" / "images" / "val_0.JPEG").unlink(),
         r"disagree on 1 images \(val/images/val_0.JPEG\)"),
        (lambda f: (f / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn9\t0\n"),
         "'n9'; expected a class of train"),
    ],
)  # fmt: skip
def test_an_incomplete_tiny_imagenet_is_refused(tiny_imagenet_folder, change, phrase):
    change(tiny_imagenet_folder)
    with pytest.raises(DataError, match=phrase):
        decode_tiny_imagenet(tiny_imagenet_files(tiny_imagenet_folder))
