import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import polyak
from polyak.cli.os_errors import message_of
from polyak.records import locks
from polyak.records.locks import HeldError, holding

HOLDER = """
import sys, time
from pathlib import Path
from polyak.records import locks
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


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.2)


ELSEWHERE = {"pid": 1, "host": "elsewhere", "started": 0.0, "beats": 7}


def test_a_holder_on_another_host_that_is_heard_is_left_alone(tmp_path, hurried, monkeypatch):
    """Its clock may say anything: only that it counts on matters."""
    path = tmp_path / "LOCK"
    path.write_text(json.dumps(ELSEWHERE))
    looks = []
    read = locks._owner_at

    def look(at):
        looks.append(at)
        if len(looks) == 3:
            path.write_text(json.dumps({**ELSEWHERE, "beats": 8}))
        return read(at)

    monkeypatch.setattr(locks, "_owner_at", look)
    with pytest.raises(HeldError, match="held by process 1 on elsewhere"), holding(tmp_path):
        pass
    assert json.loads(path.read_text())["beats"] == 8
    # Its end is no sign of life, but what it leaves is.
    path.write_text(json.dumps(ELSEWHERE))
    monkeypatch.setattr(locks, "_owner_at", lambda at: {})
    with pytest.raises(HeldError), holding(tmp_path):
        pass


def test_a_holder_on_another_host_that_is_not_heard_is_dead(tmp_path, hurried):
    (tmp_path / "LOCK").write_text(json.dumps(ELSEWHERE))
    started = time.monotonic()
    with holding(tmp_path):
        assert time.monotonic() - started >= 0.2
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "LOCK").exists()


def test_of_two_hosts_that_take_over_one_wins(tmp_path, hurried, monkeypatch):
    """The other writes just after this one."""
    path = tmp_path / "LOCK"
    path.write_text(json.dumps(ELSEWHERE))
    rival = {"pid": 2, "host": "rival", "started": 1.0}
    write = locks._write

    def overwritten(descriptor, owner):
        write(descriptor, owner)
        path.write_text(json.dumps(rival))

    monkeypatch.setattr(locks, "_write", overwritten)
    with pytest.raises(HeldError, match="held by process 2 on rival"), holding(tmp_path):
        pass
    assert json.loads(path.read_text()) == rival


def test_a_holder_gives_signs_of_life(tmp_path, hurried):
    def beats():
        return json.loads((tmp_path / "LOCK").read_text())["beats"]

    with holding(tmp_path):
        started = time.monotonic()
        while beats() < 3:
            assert time.monotonic() - started < 30
            time.sleep(0.01)
    assert not (tmp_path / "LOCK").exists()


def test_looking_who_holds_a_folder_changes_nothing(tmp_path, holder):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    found = locks.holder(tmp_path)
    assert (found.pid, found.here, found.alive) == (holder.pid, True, True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    holder.kill()
    holder.wait()
    assert not locks.holder(tmp_path).alive
    assert locks.holder(tmp_path / "absent") is None


def test_a_holder_on_another_host_is_alive_while_it_is_heard(tmp_path):
    path = tmp_path / "LOCK"
    path.write_text(json.dumps(ELSEWHERE))
    assert locks.holder(tmp_path).alive
    assert not locks.holder(tmp_path).here
    long_ago = time.time() - 61
    os.utime(path, (long_ago, long_ago))
    assert not locks.holder(tmp_path).alive
    assert locks.holder(tmp_path).silent_seconds >= 61
    # A clock that was set back is no reason to call anybody dead.
    os.utime(path, (time.time() + 1e6, time.time() + 1e6))
    assert locks.holder(tmp_path).alive


@pytest.mark.parametrize("pid", [10**30, "x", None, [1]])
def test_a_damaged_lock_has_no_living_holder_here(tmp_path, pid):
    path = tmp_path / "LOCK"
    path.write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
    os.utime(path, (0, 0))
    assert not locks.holder(tmp_path).alive


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\x00"])
def test_a_lock_whose_writer_was_killed_in_writing_is_taken_over(tmp_path, content):
    (tmp_path / "LOCK").write_text(content)
    with holding(tmp_path):
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()


def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "LOCK").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="it is a symbolic link"), holding(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_storage_without_locks_is_said_to_be_that(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="this storage has no locks") as raised, holding(tmp_path):
        pass
    message = message_of(raised.value)
    assert "expected storage that has locks" in message
    assert "free space" not in message


TWO_HOSTS = """
import socket, sys, time
from pathlib import Path
import fcntl
# A shared folder whose kernel locks are each host's own, as over some network storage.
fcntl.flock = lambda *_: None
socket.gethostname = lambda: sys.argv[2]
from polyak.records import locks
locks.BEAT_SECONDS, locks.PATIENCE_SECONDS = 0.05, 4.0
folder = Path(sys.argv[1])
try:
    with locks.holding(folder):
        with (folder / "inside").open("a") as file:
            file.write(f"{sys.argv[2]} in\\n"); file.flush()
            time.sleep(float(sys.argv[3]))
            file.write(f"{sys.argv[2]} out\\n")
except locks.HeldError as error:
    print(error)
    sys.exit(7)
"""


def _host(folder, name, seconds):
    root = str(Path(polyak.__file__).resolve().parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", TWO_HOSTS, str(folder), name, str(seconds)],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_two_hosts_without_common_locks_one_works_and_the_other_is_told_whom_to_wait_for(
    tmp_path,
):
    first = _host(tmp_path, "north", 600)
    started = time.monotonic()
    while not (tmp_path / "inside").exists():
        assert first.poll() is None
        assert time.monotonic() - started < 60
        time.sleep(0.02)
    second = _host(tmp_path, "south", 0)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 7
    assert f"held by process {first.pid} on north" in said
    # One that was killed says nothing more, and is followed.
    first.kill()
    first.communicate(timeout=60)
    third = _host(tmp_path, "south", 0)
    third.communicate(timeout=60)
    assert third.returncode == 0
    assert (tmp_path / "inside").read_text().splitlines()[-2:] == ["south in", "south out"]
