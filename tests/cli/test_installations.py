"""The command where only the plug-in is installed, and where what Windows lacks is missing."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

import polyak
from polyak.cli.command_list import EXTRAS, what_to_install

ROOT = Path(polyak.__file__).parent
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}
"""Packages that are imported under another name."""

BARE = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout

class Missing:
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package in MISSING:
            raise ModuleNotFoundError(f"No module named {package!r}", name=name)

commands, MISSING = json.loads(sys.argv[1])
sys.meta_path.insert(0, Missing())
from polyak.cli.main import main
said = []
for words in commands:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    said.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of an averager's run, eight steps apart."""
    folder = tmp_path_factory.mktemp("files")
    model = nn.Linear(4, 2)
    averager = polyak.Averager(model, [polyak.EMA(0.5, None), polyak.EMA(0.9, None)])
    for name in ("a", "b"):
        for _ in range(8):
            with torch.no_grad():
                model.weight += 1
            averager.step()
        polyak.save(averager, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def said(files):
    """What each command says in a process that has none of the extras' packages."""
    a, b = str(files / "a.safetensors"), str(files / "b.safetensors")
    out = [str(files / f"{name}.safetensors") for name in ("exported", "merged", "synthesized")]
    commands = {
        "inspect": ["inspect", a],
        "export": ["export", b, "ema_0.9", out[0]],
        "merge": ["merge", out[0], out[0], "--out", out[1]],
        "synthesize": [
            "synthesize",
            a,
            b,
            "--decay",
            "0.8",
            "--largest-error",
            "1",
            "--out",
            out[2],
        ],
        "train": ["train", "--epochs", "1"],
        "demo": ["demo"],
    }
    missing = [*EXTRAS.keys() - {"filelock"}, "fcntl"]  # filelock comes with torch
    given = json.dumps([list(commands.values()), missing])
    call = [sys.executable, "-W", "ignore", "-c", BARE, given]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", ["inspect", "export", "merge", "synthesize"])
def test_what_concerns_files_of_weights_needs_no_extra(said, command):
    code, out, err = said[command]
    assert (code, err) == (0, "")
    assert out


@pytest.mark.parametrize("command", ["train", "demo"])
def test_what_needs_an_extra_names_it_in_one_line(said, command):
    code, out, err = said[command]
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert 'pip install "polyak[study]"' in err
    assert f"`polyak {command}`" in err


def test_the_packages_are_those_of_the_extra_in_the_project():
    listed = {line.partition(">")[0] for line in PROJECT["optional-dependencies"]["study"]}
    always = {line.partition(">")[0] for line in PROJECT["dependencies"]}
    ours = {name for name, extra in EXTRAS.items() if extra == "study"}
    assert ours == {MODULES.get(name, name) for name in listed - always}


def test_any_other_missing_module_keeps_its_traceback():
    assert what_to_install("train", ModuleNotFoundError(name="polyak.cli.trian")) is None
    assert what_to_install("train", ModuleNotFoundError()) is None


def test_nothing_imports_what_only_posix_has():
    """So that the laboratory can be imported on Windows."""
    importing = re.compile(
        r"^\s*(?:import|from) (fcntl|grp|posix|pwd|resource|termios|tty)\b", re.M
    )
    texts = {path: path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    assert {path: found for path, text in texts.items() if (found := importing.findall(text))} == {}
