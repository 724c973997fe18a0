"""A reader never sees half a file."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from polyak.files import replacing, write_json


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


def test_the_temporary_lies_beside_the_target(tmp_path):
    """A rename across file systems would not be atomic."""
    with replacing(tmp_path / "a.txt") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")


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
