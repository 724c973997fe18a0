"""What of a folder is text, where windows begin, and what is refused by name."""

import os

import numpy as np
import pytest

from polyak.data.text.files import cut, find_files, read_windows
from polyak.errors import DataError


@pytest.fixture
def write(tmp_path):
    """Writes files of bytes, by path, and gives the folder as a source names it."""

    def written(**files: bytes) -> str:
        for name, content in files.items():
            path = tmp_path / "texts" / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return str(tmp_path / "texts")

    return written


def many(count: int, size: int) -> dict[str, bytes]:
    return {f"f{i:02}_txt": bytes([65 + i]) * size for i in range(count)}


def slow_windows(content: bytes, context: int) -> list[bytes]:
    found, start = [], 0
    while start + context + 1 <= len(content):
        found.append(content[start : start + context + 1])
        start += context
    return found


def test_every_byte_but_the_first_is_predicted_once_and_only_the_rest_is_left_out(write):
    draws = np.random.default_rng(0)
    files = {
        f"f{i:02}_txt": draws.integers(1, 256, 3 + 5 * i, np.uint8).tobytes() for i in range(25)
    }
    folder = write(**files)
    pieces, notes = cut(find_files(folder), 7)
    expected = [window for name in sorted(files) for window in slow_windows(files[name], 7)]
    found = read_windows(pieces, np.arange(len(expected)), 7)
    assert [row.tobytes() for row in found] == expected
    assert notes == ["left out: 1 files of fewer than 8 bytes"]
    chosen = np.array([0, 3, 4, len(expected) - 1])
    assert np.array_equal(read_windows(pieces, chosen, 7), found[chosen])


def test_few_files_are_cut_into_sections_that_count_as_files(write):
    content = bytes(range(1, 201)) * 4
    folder = write(one_txt=content, two_txt=content[::-1])
    pieces, notes = cut(find_files(folder), 9)
    assert len(pieces) == 20
    assert [piece.name for piece in pieces[:2]] == ["one.txt#0", "one.txt#1"]
    found = read_windows(pieces, np.arange(sum(p.windows for p in pieces)), 9)
    expected = [
        window
        for whole in (content, content[::-1])
        for i in range(10)
        for window in slow_windows(whole[80 * i : 80 * (i + 1)], 9)
    ]
    assert [row.tobytes() for row in found] == expected
    assert notes == ["2 files in sections: 20 count as files"]


def test_a_file_is_a_source_too(write):
    folder = write(one_txt=b"abc" * 300)
    assert list(find_files(f"{folder}/one.txt")) == ["one.txt"]


def test_hidden_files_and_what_editors_leave_are_not_read(write):
    folder = write(a_txt=b"x", b__c_md=b"y", _git__d=b"z", __pycache____e_pyc=b"\0")
    os.rename(f"{folder}/.git", f"{folder}/.hidden")
    assert "b/c.md" in find_files(folder)
    assert not any(name.startswith(".") for name in find_files(folder))


def test_links_are_followed_and_those_to_nothing_are_named(write, tmp_path):
    folder = write(a_txt=b"x" * 50)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.txt").write_bytes(b"y" * 50)
    os.symlink(tmp_path / "elsewhere", f"{folder}/linked")
    assert list(find_files(folder)) == ["a.txt", "linked/far.txt"]
    os.symlink(tmp_path / "nowhere", f"{folder}/broken")
    with pytest.raises(DataError, match=r"broken' is a link to .*nowhere', where nothing is"):
        find_files(folder)


def test_a_place_without_text_is_refused(write, tmp_path):
    with pytest.raises(DataError, match=r"source is 'text:.*absent'; expected a folder or file"):
        find_files(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty' holds no file"):
        find_files(str(tmp_path / "empty"))


def test_binary_files_and_too_long_a_context_are_named_in_one_message(write):
    folder = write(**many(24, 30), image_png=b"\x89PNG\0\0", latin_txt=b"caf\xe9 " * 5)
    with pytest.raises(DataError) as caught:
        cut(find_files(folder), 64)
    assert "1 of 26 files have zero bytes (image.png); expected text. Take them out" in str(
        caught.value
    )
    assert "context is 64, and the longest of 26 files has 30 bytes" in str(caught.value)


def test_bytes_that_are_no_utf8_are_text(write):
    pieces, _ = cut(find_files(write(latin_txt=b"caf\xe9 " * 100)), 4)
    assert sum(piece.windows for piece in pieces) > 0


def test_a_file_that_cannot_be_read_is_named(write, monkeypatch):
    files = find_files(write(**many(2, 300)))

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", refused)
        with pytest.raises(DataError, match=r"f00\.txt' cannot be read \(Permission denied\)"):
            cut(files, 8)


def test_a_file_that_has_become_shorter_is_named(write, tmp_path):
    pieces, _ = cut(find_files(write(**many(2, 300))), 8)
    (tmp_path / "texts" / "f01.txt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"f01\.txt' is shorter than it was"):
        read_windows(pieces, np.arange(sum(piece.windows for piece in pieces)), 8)


def test_the_standard_library_is_its_sources_without_tests_tables_and_other_packages():
    files = find_files("stdlib")
    assert list(files) == sorted(files)
    assert {"argparse.py", "json/decoder.py"} < set(files)
    assert all(name.endswith(".py") for name in files)
    parts = {part for name in files for part in name.split("/")}
    assert not parts & {"site-packages", "test", "tests", "encodings", "__pycache__"}
    assert not any(name.startswith("_sysconfigdata") for name in files)
