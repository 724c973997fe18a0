import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import polyak
from polyak.records.locks import HeldError, holding

HOLDER = """
import sys, time
from pathlib import Path
from polyak.records.locks import holding
with holding(Path(sys.argv[1])):
    Path(sys.argv[1], "held").touch()
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    source = str(Path(polyak.__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env={**os.environ, "PYTHONPATH": source}
    )
    started = time.monotonic()
    while not (tmp_path / "held").exists():
        assert process.poll() is None
        assert time.monotonic() - started < 60
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def test_a_folder_is_free_again_after_the_block_also_if_it_raises(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), holding(tmp_path):
            assert_owned_and_raise(tmp_path)
        assert list(tmp_path.iterdir()) == []


def assert_owned_and_raise(folder):
    assert json.loads((folder / "LOCK").read_text())["pid"] == os.getpid()
    raise ZeroDivisionError


def test_a_second_holder_in_one_process_is_refused_too(tmp_path):
    with holding(tmp_path):
        with pytest.raises(HeldError), holding(tmp_path):
            pass
        assert (tmp_path / "LOCK").exists()


def test_a_living_process_is_named_and_a_killed_ones_lock_is_taken_over(tmp_path, holder):
    said = f"held by process {holder.pid} on .*Wait for it"
    with pytest.raises(HeldError, match=said), holding(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "LOCK").exists()
    with holding(tmp_path):
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "LOCK").exists()


def test_a_process_of_another_host_is_not_judged_from_here(tmp_path):
    """A folder on shared storage, or one that was moved here while a run was killed."""
    owner = {"pid": os.getpid(), "host": "elsewhere", "started": 0.0}
    (tmp_path / "LOCK").write_text(json.dumps(owner))
    said = r"on elsewhere; .*remove the file LOCK"
    with pytest.raises(HeldError, match=said), holding(tmp_path):
        pass
    assert json.loads((tmp_path / "LOCK").read_text()) == owner


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\x00"])
def test_a_lock_whose_writer_was_killed_in_writing_is_taken_over(tmp_path, content):
    (tmp_path / "LOCK").write_text(content)
    with holding(tmp_path):
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()
