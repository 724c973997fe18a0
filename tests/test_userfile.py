from pathlib import Path

import pytest

from polyak.data.sources import decode_user_file
from polyak.errors import ConfigError, DataError
from polyak.userfile import load_function, parse_reference

SETS = """
from __future__ import annotations
from dataclasses import dataclass

import torch
from polyak.data import DataSet, ImageSet

@dataclass
class Size:
    n: int

def some(n):
    images = torch.zeros(n, 1, 2, 2, dtype=torch.uint8)
    return ImageSet(images_nchw=images, labels_n=torch.arange(n) % 2, classes=("a", "b"))

def load():
    return some(Size(4).n), some(2)

def whole():
    return DataSet(train=some(6), test=some(2))

def wrong():
    return [1, 2]

def broken():
    raise KeyError("mine")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SETS)
    return path


@pytest.mark.parametrize(("function", "n"), [("load", 4), ("whole", 6)])
def test_a_function_may_return_a_pair_or_a_data_set(file, function, n):
    made = decode_user_file(file, function)
    assert (len(made.train), len(made.test)) == (n, 2)


def test_files_of_one_name_do_not_meet(file, tmp_path):
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(SETS.replace("Size(4)", "Size(8)"))
    assert [len(decode_user_file(path, "load").train) for path in (file, other)] == [4, 8]


def test_an_unknown_function_lists_those_of_the_file(file):
    with pytest.raises(DataError, match=r"'laod'; expected one of .*Did you mean 'load'"):
        decode_user_file(file, "laod")


def test_another_result_is_refused(file):
    with pytest.raises(
        DataError, match=r"wrong' returned a list; expected a polyak\.data\.DataSet"
    ):
        decode_user_file(file, "wrong")


def test_what_the_function_raises_is_passed_on(file):
    with pytest.raises(KeyError, match="mine"):
        decode_user_file(file, "broken")


def test_a_file_that_fails_is_run_again_the_next_time(tmp_path):
    path = tmp_path / "fails.py"
    path.write_text("1/0")
    with pytest.raises(ZeroDivisionError):
        decode_user_file(path, "load")
    path.write_text(SETS)
    assert len(decode_user_file(path, "load").train) == 4


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"expected a Python file at .*nowhere\.py"):
        decode_user_file(tmp_path / "nowhere.py", "load")


def test_references_are_told_from_paths():
    assert parse_reference("a/b.py:load") == (Path("a/b.py"), "load")
    assert parse_reference("a/b.py") is None
    assert parse_reference("owner/name") is None


def test_a_file_that_is_no_python_is_refused_with_its_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\ndef study(:\n")
    with pytest.raises(ConfigError, match=r"line 2 of .*mine\.py' is not Python"):
        load_function(path, "study", what="study", error=ConfigError)
