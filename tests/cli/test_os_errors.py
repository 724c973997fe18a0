"""Paths that cannot be, disks that fail and readers that go away: no traceback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import polyak
from polyak.cli.main import main


@pytest.mark.parametrize("below", ["", "x", "x/y"])
def test_a_file_where_the_output_folder_should_be_is_code_2(in_process, tmp_path, capsys, below):
    (tmp_path / "afile").touch()
    assert main(["study", "small", "--out", str(tmp_path / "afile" / below)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"polyak: {tmp_path / 'afile'}")
    assert "expected a folder where a folder goes" in said


def test_a_name_that_is_too_long_is_code_2(in_process, tmp_path, capsys):
    assert main(["study", "small", "--out", str(tmp_path / ("x" * 300))]) == 2
    assert "expected a shorter path" in capsys.readouterr().err


@pytest.mark.parametrize(
    "code",
    [
        "ENOSPC",
        "EDQUOT",
        "EROFS",
        "EACCES",
        "EPERM",
        "ENOTDIR",
        "EISDIR",
        "EEXIST",
        "EIO",
        "ESTALE",
    ],
)
def test_a_fault_of_the_disk_is_code_2_with_the_path(tmp_path, refused, monkeypatch, code):
    number = getattr(errno, code)

    def fault(*_, **__):
        raise OSError(number, os.strerror(number), "/a/path")

    monkeypatch.setattr("polyak.cli.commands.report.load_study", lambda *_: None)
    monkeypatch.setattr("polyak.cli.commands.report.write_report", fault)
    said = refused("report", tmp_path)
    assert "/a/path cannot be" in said
    assert os.strerror(number) in said


def test_a_file_that_may_not_be_read_is_not_said_to_be_one_to_write(refused, monkeypatch):
    def fault(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "images.parquet")

    monkeypatch.setattr("polyak.cli.commands.data.prepare", fault)
    said = refused("data", "prepare", "--source", "digits")
    assert "images.parquet cannot be read or written (Permission denied)" in said
    assert "a file that you may read" in said


@pytest.mark.parametrize("words", [["list"], ["--help"]], ids=" ".join)
def test_a_reader_that_goes_away_ends_the_command_in_silence(words):
    source = str(Path(polyak.__file__).resolve().parents[1])
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", "from polyak.cli.main import entry; entry()", *words],
            env={**os.environ, "PYTHONPATH": source},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert ended.stderr == ""
    assert ended.returncode == 141


def test_a_pipe_that_breaks_elsewhere_keeps_its_traceback(tmp_path, monkeypatch):
    def fault(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "a worker has gone")

    monkeypatch.setattr("polyak.cli.commands.report.load_study", lambda *_: None)
    monkeypatch.setattr("polyak.cli.commands.report.write_report", fault)
    with pytest.raises(BrokenPipeError, match="a worker has gone"):
        main(["report", str(tmp_path)])
