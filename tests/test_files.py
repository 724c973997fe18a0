"""A reader never sees half a file."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import polyak
from polyak.files import read_json, replacing, write_csv, write_json


def test_the_file_appears_whole(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_old_file_stays_until_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def _write_half(path: Path, error: type[BaseException]) -> None:
    path.write_text("half")
    raise error


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_what_was_there_and_nothing_else(tmp_path, existed, error):
    path = tmp_path / "a.txt"
    if existed:
        path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        _write_half(temporary, error)
    assert os.listdir(tmp_path) == (["a.txt"] if existed else [])
    assert not existed or path.read_text() == "old"


def test_a_rename_that_fails_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    with pytest.raises(OSError), replacing(folder) as temporary:  # noqa: PT011 (differs by system)
        temporary.write_text("x")
    assert os.listdir(tmp_path) == ["a"]


def test_the_temporary_lies_in_a_hidden_folder_beside_the_target(tmp_path):
    """A rename across file systems would not be atomic."""
    with replacing(tmp_path / "a.txt") as temporary:
        assert temporary.parent.parent == tmp_path
        assert temporary.parent.name.startswith(".")
        # However long the name is that the disk allows, the temporary has it too.
        assert temporary.name == "a.txt"


def test_a_name_as_long_as_the_disk_allows_can_be_written(tmp_path):
    name = "a" * os.pathconf(tmp_path, "PC_NAME_MAX")
    write_json(tmp_path / name, {})
    assert os.listdir(tmp_path) == [name]


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there(tmp_path):
    source = (
        "import os, sys, pathlib; from polyak.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1], 'a.txt')) as t:\n"
        "    t.write_text('half'); (t.parent / '.tmpX').touch(); os.kill(os.getpid(), 9)"
    )
    root = str(Path(polyak.__file__).resolve().parents[1])
    subprocess.run(
        [sys.executable, "-c", source, str(tmp_path)], env={**os.environ, "PYTHONPATH": root}
    )
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".polyak-")
    write_json(tmp_path / "b.json", {})
    assert os.listdir(tmp_path) == ["b.json"]


def test_the_folder_of_a_living_process_and_anothers_hidden_folder_stay(tmp_path):
    (tmp_path / ".polyak-mine").mkdir()
    with replacing(tmp_path / "a.txt") as temporary:
        write_json(tmp_path / "b.json", {})
        assert temporary.exists()
    assert sorted(os.listdir(tmp_path)) == [".polyak-mine", "a.txt", "b.json"]


def test_an_error_names_the_target_not_the_temporary(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, replacing(tmp_path / "a") as t:
        raise OSError(errno.ENOSPC, "No space left on device", str(t))
    assert raised.value.filename == str(tmp_path / "a")
    with pytest.raises(FileNotFoundError) as raised, replacing(tmp_path / "a"):
        (tmp_path / "other").read_text()
    assert raised.value.filename == str(tmp_path / "other")


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=cmd|'/c calc'!A1", "'=cmd|'/c calc'!A1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("-0.5", "-0.5"),
        ("+1e3", "+1e3"),
        (-0.5, "-0.5"),
        ("cat", "cat"),
        ("\udc80", "\\udc80"),
        (None, ""),
    ],
)
def test_a_cell_that_a_spreadsheet_would_run_is_quoted_as_text(tmp_path, cell, written):
    write_csv(tmp_path / "a.csv", ["x", "y"], [[cell, 1]])
    text = (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert text == f"x,y\n{written},1\n"


def test_json_nested_without_end_is_a_value_error(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match="nested"):
        read_json(tmp_path / "a.json")


def test_missing_folders_are_made(tmp_path):
    path = tmp_path / "x" / "y" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


def test_a_writer_may_replace_the_temporary_itself(tmp_path):
    """As libraries do that write elsewhere and rename."""
    with replacing(tmp_path / "a.txt") as temporary:
        other = tmp_path / "other"
        other.write_text("whole")
        other.replace(temporary)
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.skipif(os.name != "posix", reason="needs a mask of permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_an_ordinary_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("x")
        assert os.umask(mask) == mask  # and the mask is as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask


def test_the_bytes_are_flushed_to_disk_before_the_rename(tmp_path, monkeypatch):
    calls = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("flush"), flush(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), rename(a, b)))
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert calls == ["flush", "rename"]


def test_writers_at_the_same_time_do_not_mix(tmp_path):
    path = tmp_path / "a.txt"

    def write(letter: str) -> None:
        for _ in range(20):
            with replacing(path) as temporary:
                temporary.write_text(letter * 10_000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in {letter * 10_000 for letter in "abcd"}
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("form", [str, Path])
def test_json_is_written_sorted_with_a_last_newline(tmp_path, form):
    path = tmp_path / "a.json"
    write_json(form(path), {"b": [1, 2.5], "a": None, "µ": "é"})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"b": [1, 2.5], "a": None, "µ": "é"}
    assert text.endswith("}\n")
    assert text.index('"a"') < text.index('"b"')


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]
