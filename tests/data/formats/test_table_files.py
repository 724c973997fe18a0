"""Which files of tables are which split, by names of files and folders."""

import pytest

from polyak.data.formats.found import Wanted
from polyak.data.formats.table_files import PARQUET, split_files
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
    found, _ = split_files(touch(tmp_path, *names), PARQUET, Wanted(), nameless=False)
    assert [path.name for path in found["train"]] == train
    assert [path.name for path in found["test"]] == test


@pytest.mark.parametrize(
    ("names", "phrase"),
    [
        (["train.parquet"], "by its parquet files, has the splits train; expected train and one"),
        (["test.parquet"], "by its parquet files, has the splits test;"),
        (["a/train.parquet", "b/train.parquet"], "several data sets; expected one of .*/a'.*/b'"),
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet", "test.parquet"],
         "has 2 of the 3 files"),
    ],
)  # fmt: skip
def test_incomplete_folders_of_parquet_files_are_refused(tmp_path, names, phrase):
    with pytest.raises(DataError, match=phrase):
        split_files(touch(tmp_path, *names), PARQUET, Wanted(), nameless=False)


def test_a_folder_without_such_files_is_none_of_its_kind(tmp_path):
    touch(tmp_path, "some.parquet", "a/b/train.parquet", "train.csv")
    assert split_files(tmp_path, PARQUET, Wanted(), nameless=False) == ({}, [])


@pytest.mark.parametrize(
    ("names", "train", "other", "role"),
    [
        (["Train.parquet", "Testing.parquet"], 1, 1, "test"),
        (["training-a.parquet", "training-b.parquet", "eval.parquet"], 2, 1, "test"),
        (["my_train.parquet", "my_test.parquet"], 1, 1, "test"),
        (["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"], 2, 1, "test"),
        (["default/train/0000.parquet", "default/test/0000.parquet"], 1, 1, "test"),
        (["train/train-0.parquet", "test/test-0.parquet"], 1, 1, "test"),
        (["train.parquet", "dev.parquet", "test.parquet"], 1, 1, "holdout"),
        (["train-00000-of-00001-0a1b2c.parquet", "test.parquet"], 1, 1, "test"),
    ],
)
def test_spellings_and_layouts_of_the_hub_are_those_of_datasets(
    tmp_path, names, train, other, role
):
    found, left_out = split_files(touch(tmp_path, *names), PARQUET, Wanted(), nameless=False)
    assert (len(found["train"]), len(found[role])) == (train, other)
    assert left_out == []


@pytest.mark.parametrize(
    ("names", "phrase"),
    [
        (["val.parquet", "valid.parquet", "train.parquet"],
         "'val.parquet' and 'valid.parquet', two spellings of validation"),
        (["train/0.parquet", "Train/0.parquet", "test/0.parquet"],
         "'Train' and 'train', two spellings of train"),
        (["train-00000-of-00002.parquet", "train-00000-of-00002-1f.parquet", "test.parquet"],
         "has 2 of the 2 files"),
    ],
)  # fmt: skip
def test_two_spellings_of_a_split_are_refused(tmp_path, names, phrase):
    with pytest.raises(DataError, match=phrase):
        split_files(touch(tmp_path, *names), PARQUET, Wanted(), nameless=False)


def test_a_file_beside_the_splits_is_said_to_be_left_out(tmp_path):
    touch(tmp_path, "train.parquet", "test.parquet", "unlabeled.parquet")
    _, left_out = split_files(tmp_path, PARQUET, Wanted(), nameless=False)
    assert left_out == ["left out: 'unlabeled.parquet', which names no split"]


def test_a_validation_split_may_be_ignored(tmp_path):
    touch(tmp_path, "train.parquet", "dev.parquet", "test.parquet")
    found, _ = split_files(tmp_path, PARQUET, Wanted(validation=False), nameless=False)
    assert list(found) == ["train", "test"]
