"""Any text may be printed anywhere, and moves nothing."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyak
from polyak.cli.terminal import ReadableStream

SOURCE = str(Path(polyak.__file__).resolve().parents[1])


def written(text, *, encoding="utf-8", terminal=False):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    stream.isatty = lambda: terminal
    assert ReadableStream(stream).write(text) == len(text)
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("accuracy 93.1 %\n", "accuracy 93.1 %\n"),
        ("a\tb\r\n", "a\tb\r\n"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202egnp", r"\u202egnp"),
        ("\udce9", r"\udce9"),
    ],
)
def test_what_is_not_to_be_seen_is_written_as_its_escape(text, shown):
    assert written(text) == shown


def test_in_a_terminal_styles_stay_and_all_else_is_escaped():
    styled = "\x1b[1mbold\x1b[0m \x1b]52;c;aGk=\x07"
    assert written(styled, terminal=True) == "\x1b[1mbold\x1b[0m \\x1b]52;c;aGk=\\x07"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@given(text=st.text())
def test_no_encoding_lacks_what_is_written(encoding, text):
    shown = written(text, encoding=encoding)
    assert all(c.isprintable() or c in "\n\t\r" for c in shown)


def test_signs_of_our_own_are_plain_where_an_encoding_lacks_them():
    assert written("3×32 – 93 ± 1 → out", encoding="ascii") == "3x32 - 93 +/- 1 -> out"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_list_and_status_are_readable_in_an_old_terminal(tmp_path, encoding):
    (tmp_path / "runs" / "a\x1b]0;owned\x07").mkdir(parents=True)
    for words in (["list"], ["status", str(tmp_path)]):
        command = [sys.executable, "-c", "from polyak.cli.main import entry; entry()", *words]
        environment = {"PYTHONPATH": SOURCE, "PYTHONIOENCODING": encoding, "PATH": ""}
        done = subprocess.run(command, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        said = done.stdout.decode(encoding)
        assert "\x1b" not in said
        # The bell itself is left out by what lays out the table.
        assert "table1" in said or r"a\x1b]0;owned" in said
