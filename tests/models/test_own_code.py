"""Which changes of a user's code make another run of it."""

import pytest

from polyak.errors import ConfigError
from polyak.models.own_code import code_fingerprint

NET = '''
"""Mine."""
import json  # for another function
import torch
from torch import nn
from blocks import Block

WIDTH = 8
OTHER = 3


class Net(nn.Sequential):
    """Blocks."""


def build(classes, channels):
    """A network."""
    return Net(Block(WIDTH), nn.Linear(WIDTH, classes))


def plot(path):
    return json.dumps(OTHER)


if __name__ == "__main__":
    plot("here")
'''
BLOCKS = """
from torch import nn
from deeper import GAIN
from deeper.inner import scale


def Block(width):
    return nn.Linear(width, width * scale(GAIN))


def unused():
    return 1
"""
FILES = {
    "net.py": NET,
    "blocks.py": BLOCKS,
    "deeper/__init__.py": "from .inner import GAIN\n",
    "deeper/inner.py": "GAIN = 1\n\ndef scale(x):\n    return x\n",
    "apart.py": "X = 1\n",
}


def fingerprint(folder, changed=None, old="", new=""):
    for name, code in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert old in code or name != changed
        path.write_text(code.replace(old, new) if name == changed else code)
    return code_fingerprint(folder / "net.py", "build")


HARMLESS = {
    "a comment": ("net.py", "OTHER = 3", "OTHER = 3  # three"),
    "a docstring": ("net.py", '    """A network."""\n', ""),
    "layout": ("net.py", "WIDTH = 8", "WIDTH = (8)\n\n"),
    "another function": ("net.py", "json.dumps(OTHER)", "json.dumps(-OTHER)"),
    "a constant of another function": ("net.py", "OTHER = 3", "OTHER = 4"),
    "an import of another function": ("net.py", "import json", "import pickle as json"),
    "running it alone": ("net.py", 'plot("here")', 'plot("there")'),
    "an unused function beside it": ("blocks.py", "return 1", "return 2"),
    "a file that is not imported": ("apart.py", "X = 1", "X = 2"),
}
HARMFUL = {
    "the function": ("net.py", "Block(WIDTH), ", "Block(WIDTH), nn.ReLU(), "),
    "a constant": ("net.py", "WIDTH = 8", "WIDTH = 9"),
    "a class": ("net.py", '    """Blocks."""', "    def forward(self, x):\n        return x"),
    "where a name is from": ("net.py", "from torch import nn", "from other import nn"),
    "a setting of torch": ("net.py", "OTHER = 3", "torch.set_default_dtype(torch.float64)"),
    "an import for its effect": ("net.py", "OTHER = 3", "import patches"),
    "a function beside it": ("blocks.py", "width * scale", "2 * width * scale"),
    "a constant two files away": ("deeper/inner.py", "GAIN = 1", "GAIN = 2"),
    "a function in a package": ("deeper/inner.py", "return x", "return -x"),
    "what a package does at once": ("deeper/__init__.py", "\n", "\nprint()\n"),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_what_the_function_cannot_reach_is_no_other_run(tmp_path, change):
    assert fingerprint(tmp_path / "b", *HARMLESS[change]) == fingerprint(tmp_path / "a")


@pytest.mark.parametrize("change", HARMFUL)
def test_what_the_function_can_reach_is_another_run(tmp_path, change):
    assert fingerprint(tmp_path / "b", *HARMFUL[change]) != fingerprint(tmp_path / "a")


def test_every_version_of_python_finds_the_same(tmp_path):
    """A literal: the ids of runs are made from it."""
    assert fingerprint(tmp_path) == EXPECTED


EXPECTED = "8e24ac4d15a1ddb1500be2820c58f22de46a7510ab2f6394477d08a700e74108"


@pytest.mark.parametrize(
    "lookup", ["globals()['x' + 'y']()", "getattr(blocks, 'x' + 'y')()", "eval('xy()')"]
)
def test_code_that_computes_names_counts_whole(tmp_path, lookup):
    def found(value):
        path = tmp_path / "net.py"
        path.write_text(f"def build(c, k):\n    return {lookup}\n\ndef xy():\n    return {value}\n")
        return code_fingerprint(path, "build")

    assert found(1) != found(2)


def test_classes_that_their_base_may_know_count(tmp_path):
    def found(value):
        path = tmp_path / "net.py"
        path.write_text(
            "ALL = []\nclass Base:\n    def __init_subclass__(cls):\n        ALL.append(cls)\n"
            f"class A(Base):\n    size = {value}\n"
            "def build(c, k):\n    return ALL[0]() if Base else None\n"
        )
        return code_fingerprint(path, "build")

    assert found(1) != found(2)


def test_files_that_import_each_other_come_to_an_end(tmp_path):
    (tmp_path / "net.py").write_text("import aa\ndef build(c, k):\n    return aa.f(c)\n")
    (tmp_path / "aa.py").write_text("import bb, net\ndef f(c):\n    return bb.g(c)\n")
    (tmp_path / "bb.py").write_text("import aa\ndef g(c):\n    return c\n")
    before = code_fingerprint(tmp_path / "net.py", "build")
    (tmp_path / "bb.py").write_text("import aa\ndef g(c):\n    return -c\n")
    assert code_fingerprint(tmp_path / "net.py", "build") != before


def test_a_neighbour_that_is_no_python_is_refused_with_its_line(tmp_path):
    (tmp_path / "net.py").write_text("import aa\ndef build(c, k): ...\n")
    (tmp_path / "aa.py").write_text("\nx = = 1\n")
    with pytest.raises(ConfigError, match=r"line 2 of .*aa\.py' is not Python"):
        code_fingerprint(tmp_path / "net.py", "build")
