"""What can happen to a run between two sessions, through the command line."""

import os
import shutil
import subprocess

import pytest

from polyak.cli.main import main
from polyak.records.runs import run_folder

DATA = """
import torch
from polyak.data import DataSet, ImageSet

def load():
    draws = torch.Generator().manual_seed({seed})
    def part(n):
        images = torch.randint(0, 256, (n, 1, 8, 8), generator=draws, dtype=torch.uint8)
        return ImageSet(images_nchw=images, labels_n=torch.arange(n) % 3, classes=("a", "b", "c"))
    return part(60), part(30)
"""
SETTINGS = "--model.width 4 --epochs 2 --batch-size 45 --optim.lr 0.1 --optim.warmup-epochs 1"
BANK = "--averaging.decays 0.5 0.9 --averaging.every 1"


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys):
    """The command of a run on a file's data that stopped after its first step."""
    monkeypatch.setenv("POLYAK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(DATA.format(seed=0))
    words = f"train --data.source {tmp_path}/mine.py:load {SETTINGS} {BANK}".split()
    command = [*words, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("polyak.training.interruption.before_limit", lambda seconds: 0.0)
        assert main([*command, "--time-limit", "9m"]) == 75
    capsys.readouterr()
    return command


def arms(said):
    return said.out.splitlines()[:-1]


def test_a_folder_that_was_moved_goes_on(stopped, tmp_path, capsys):
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    assert main([*stopped[:-1], str(tmp_path / "elsewhere")]) == 0
    moved = arms(capsys.readouterr())
    assert main([*stopped[:-1], str(tmp_path / "whole")]) == 0
    assert arms(capsys.readouterr()) == moved


def test_a_run_whose_data_changed_is_refused_by_the_fingerprint(stopped, tmp_path, capsys):
    """As where the cache was lost and the source is no longer what it was."""
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "mine.py").write_text(DATA.format(seed=1))
    # A file of code is run once a process.
    forget(tmp_path / "mine.py")
    command = ["train", "--config", str(folder / "config.json"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "It has changed since the configuration was written" in said.err
    assert list((tmp_path / "out" / "runs").iterdir()) == [folder]
    assert run_folder(tmp_path / "out", folder.name).ending is None
    # What asks for the new data is another run.
    assert main(stopped) == 0
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2


def forget(path):
    import sys

    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == str(path):
            del sys.modules[name]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with little room; only root may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full_loses_nothing(stopped, small_disk, tmp_path, capsys):
    out = small_disk / "out"
    shutil.copytree(tmp_path / "out", out, ignore=shutil.ignore_patterns("checkpoint"))
    command = [*stopped[:-1], str(out)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "the same command again" in said
    (folder,) = (out / "runs").iterdir()
    assert run_folder(out, folder.name).ending is None
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert main(command) == 0
    mended = arms(capsys.readouterr())
    assert main([*stopped[:-1], str(tmp_path / "whole")]) == 0
    assert arms(capsys.readouterr()) == mended


def test_a_disk_that_is_really_read_only_is_named(stopped, small_disk, tmp_path, capsys):
    out = small_disk / "out"
    out.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert main([*stopped[:-1], str(out)]) == 2
    assert os.strerror(30) in capsys.readouterr().err
