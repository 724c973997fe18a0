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


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, code in files.items():
        (folder / f"{name}.py").write_text(code)


def call(folder, function="study"):
    return load_function(folder / "mine.py", function, what="study", error=ConfigError)()


def test_a_file_may_import_what_lies_beside_it(tmp_path):
    write(
        tmp_path,
        mine="import beside_a\ndef study():\n    return beside_a.VALUE",
        beside_a="VALUE = 5",
    )
    write(tmp_path / "inner_a", __init__="from .part import VALUE", part="VALUE = 6")
    assert call(tmp_path) == 5
    write(tmp_path, mine2="")
    write(tmp_path / "b", mine="def study():\n    from inner_b.part import VALUE\n    return VALUE")
    write(tmp_path / "b" / "inner_b", part="VALUE = 7")
    assert call(tmp_path / "b") == 7


def test_modules_of_one_name_beside_two_files_do_not_meet(tmp_path):
    code = (
        "import beside\ndef study():\n    import later_beside\n    return beside.X, later_beside.X"
    )
    for folder, value in (("a", 1), ("b", 2)):
        write(tmp_path / folder, mine=code, beside=f"X = {value}", later_beside=f"X = {-value}")
    functions = [
        load_function(tmp_path / folder / "mine.py", "study", what="study", error=ConfigError)
        for folder in ("a", "b")
    ]
    assert [function() for function in functions] == [(1, -1), (2, -2)]
    assert functions[0]() == (1, -1)


def test_no_file_of_a_users_stands_in_for_an_installed_package(tmp_path):
    write(
        tmp_path,
        mine="import safetensors, colorsys\ndef study():\n    return safetensors, colorsys",
        safetensors="",
        colorsys="",
    )
    for module in call(tmp_path):
        assert not Path(module.__file__).is_relative_to(tmp_path)


def test_an_import_that_is_nowhere_is_refused_by_name(tmp_path):
    write(tmp_path, mine="import helpers_that_are_not\ndef study(): ...")
    with pytest.raises(ConfigError, match=r"imports 'helpers_that_are_not', which is neither"):
        call(tmp_path)


def test_a_neighbour_that_is_no_python_is_refused_with_its_own_line(tmp_path):
    write(tmp_path, mine="import beside_c\ndef study(): ...", beside_c="\n\nx = = 1")
    with pytest.raises(ConfigError, match=r"line 3 of .*beside_c\.py' is not Python"):
        call(tmp_path)
