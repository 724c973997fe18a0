"""Jobs in real processes. They are spawned, so what they run must be importable there: the jobs
that fail here do so by their configuration, or are objects of this module."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import polyak
from polyak.data import prepare
from polyak.records.locks import holding
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.study.executors import attempts, local
from polyak.study.executors.local import LocalExecutor, available_cores
from polyak.training.interruption import InterruptedRun, Interruption
from polyak.training.jobs import carry_out
from polyak.training.optim import OptimConfig


@pytest.fixture
def tiny(row):
    return replace(row.config, data=prepare(row.config.data), epochs=2)


def test_runs_are_carried_out_and_failures_are_told_apart(tiny, tmp_path):
    """A run that ends, one that diverges, a user's fault and a bug, two at a time."""
    done = tiny
    diverges = replace(tiny, optim=OptimConfig(lr=1e30, warmup_epochs=0))
    fault = replace(tiny, data=replace(tiny.data, fingerprint="0" * 64))
    bug = replace(tiny, optim="no optimiser")
    ticks = []
    failures = LocalExecutor(workers=2)([done, diverges, fault, bug], tmp_path, ticks.append)
    assert run_folder(tmp_path, done.id).ending == "done"
    assert run_folder(tmp_path, diverges.id).ending == "diverged"
    assert failures.keys() == {fault.id, bug.id}
    assert failures[fault.id].startswith("source 'digits' is not in the cache")
    assert "Traceback" not in failures[fault.id]
    assert "Traceback" in failures[bug.id]
    assert "AttributeError" in failures[bug.id]
    assert ticks[-1] == {
        done.id: "done",
        diverges.id: "done",
        fault.id: "failed",
        bug.id: "failed",
    }
    assert {state for tick in ticks for state in tick.values()} <= {
        "waiting",
        "running",
        "done",
        "failed",
    }


def test_no_jobs_start_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "ProcessPoolExecutor", None)
    assert LocalExecutor(workers=2)([], tmp_path, lambda states: None) == {}


@dataclass(frozen=True)
class Threads:
    """A job whose failure tells how many threads torch has, and what Ctrl-C does."""

    id: str = "threads"

    def check(self):
        raise RuntimeError(
            f"threads {torch.get_num_threads()} "
            f"ignored {signal.getsignal(signal.SIGINT) is signal.SIG_IGN}"
        )

    @property
    def ending(self):
        return None


def test_workers_use_one_thread_and_leave_ctrl_c_to_the_parent(tmp_path):
    failures = LocalExecutor(workers=1)([Threads()], tmp_path, lambda states: None)
    assert "threads 1 ignored True" in failures["threads"]


@dataclass(frozen=True)
class Dies:
    """A job that takes its process with it, as the kernel does when memory runs out."""

    id: str = "dies"

    def check(self):
        os._exit(9)


@dataclass(frozen=True)
class Leaves:
    """A job that leaves a file and ends well but for its last line."""

    id: str

    def check(self):
        Path(os.environ["POLYAK_TEST_LEFT"], self.id).write_text("")
        raise ValueError(self.id)


def test_a_process_that_dies_fails_its_own_job_only(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYAK_TEST_LEFT", str(tmp_path))
    jobs = [Leaves("a"), Dies(), Leaves("b"), Leaves("c")]
    ticks = []
    failures = LocalExecutor(workers=2)(jobs, tmp_path, ticks.append)
    assert "a worker process died" in failures["dies"]
    for name in "abc":
        assert f"ValueError: {name}" in failures[name]
        assert (tmp_path / name).exists()
    assert ticks[-1] == dict.fromkeys(["a", "dies", "b", "c"], "failed")
    # Nothing is called failed that may still be done.
    for name in ticks[-1]:
        states = [tick.get(name, "waiting") for tick in ticks]
        assert set(states[states.index("failed") :]) == {"failed"}


@dataclass(frozen=True)
class Sleeps:
    """A job that takes longer than anybody waits; its file says that it runs, and in which
    process."""

    id: str

    def check(self):
        Path(os.environ["POLYAK_TEST_LEFT"], self.id).write_text(str(os.getpid()))
        time.sleep(600)


@dataclass(frozen=True)
class Names:
    """A job whose failure tells its process, and what is loaded there."""

    id: str

    def check(self):
        loaded = {
            name for name in sys.modules if name.startswith(("matplotlib", "scipy", "polyak"))
        }
        raise ValueError(f"process {os.getpid()} {' '.join(sorted(loaded))}")


def process_of(failures, name):
    return int(failures[name].partition("ValueError: process ")[2].split()[0])


def test_calls_within_a_block_share_their_processes(tmp_path):
    with LocalExecutor(workers=1) as executor:
        calls = [executor([Names(name)], tmp_path, lambda states: None) for name in "ab"]
    assert process_of(calls[0], "a") == process_of(calls[1], "b")
    assert not _alive(process_of(calls[0], "a"))


def test_a_process_that_dies_between_two_calls_is_replaced(tmp_path):
    with LocalExecutor(workers=1) as executor:
        first = process_of(executor([Names("a")], tmp_path, lambda states: None), "a")
        os.kill(first, signal.SIGKILL)
        # Only then does it refuse work, instead of losing it.
        while not executor._pool._broken:
            time.sleep(0.05)
        failures = executor([Names("b")], tmp_path, lambda states: None)
    assert process_of(failures, "b") != first


def test_a_process_that_dies_in_a_call_leaves_a_pool_for_the_next(tmp_path):
    with LocalExecutor(workers=1) as executor:
        assert "a worker process died" in executor([Dies()], tmp_path, lambda states: None)["dies"]
        assert process_of(executor([Names("b")], tmp_path, lambda states: None), "b") > 0


def test_workers_load_nothing_that_draws_a_page(tmp_path):
    loaded = LocalExecutor(workers=1)([Names("a")], tmp_path, lambda states: None)["a"].split()
    drawing = ("matplotlib", "scipy", "polyak.report", "polyak.analysis", "polyak.cli")
    assert "polyak.training.jobs" in loaded
    assert not [name for name in loaded if name.startswith(drawing)]


def test_ctrl_c_ends_the_processes_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYAK_TEST_LEFT", str(tmp_path))

    def tick(_states):
        if (tmp_path / "x").exists() and (tmp_path / "x").read_text():
            raise KeyboardInterrupt

    started = time.monotonic()
    # More than a pool's queue takes: some are cancelled before they begin.
    jobs = [Sleeps(name) for name in "xyzuvw"]
    with pytest.raises(KeyboardInterrupt):
        LocalExecutor(workers=1, grace_seconds=1)(jobs, tmp_path, tick)
    pid = int((tmp_path / "x").read_text())
    while _alive(pid):
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    assert not (tmp_path / "y").exists()


def test_runs_that_are_stopped_write_a_checkpoint_and_go_on_from_it(tiny, tmp_path):
    config = replace(tiny, epochs=60)
    out, whole = tmp_path / "out", tmp_path / "whole"
    folder = run_folder(out, config.id)

    def tick(_states):
        if folder.epochs():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalExecutor(workers=1)([config], out, tick)
    assert folder.ending is None
    assert not (folder.path / "LOCK").exists()
    (written,) = folder.checkpoints.glob("at-*")
    before = folder.epochs()
    assert written.stem >= f"at-{len(before):04}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shown = []
        carry_out(config, out, on_epoch=shown.append)
        carry_out(config, whole)
    finally:
        torch.set_num_threads(threads)
    # What was done before was not done again.
    assert [record.epoch for record in shown] == list(range(len(before) + 1, 61))
    one, other = (Predictions(run_folder(o, config.id).predictions) for o in (out, whole))
    for arm in other.arms("test"):
        assert torch.equal(one.logits_nk("test", arm), other.logits_nk("test", arm))


def test_a_run_that_another_study_is_at_is_waited_for(tiny, tmp_path, monkeypatch):
    """It ends while this one waits; what it leaves is used, and nothing is done twice."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    carry_out(tiny, whole)
    folder = run_folder(out, tiny.id).path
    folder.mkdir(parents=True)
    looks = []
    with ExitStack() as other:
        other.enter_context(holding(folder))

        pause = time.sleep

        def ended(seconds):
            if seconds != attempts.HELD_SECONDS:
                # The lock's own patience.
                pause(seconds)
                return
            looks.append(seconds)
            if len(looks) == 2:
                other.close()
                shutil.copytree(run_folder(whole, tiny.id).path, folder, dirs_exist_ok=True)

        monkeypatch.setattr(attempts.time, "sleep", ended)
        monkeypatch.setattr("polyak.training.jobs._train", None)
        assert attempts.attempt(tiny, out, device="cpu", interruption=Interruption()) is None
    assert looks == [attempts.HELD_SECONDS] * 2
    assert run_folder(out, tiny.id).ending == "done"


def test_waiting_for_another_study_ends_when_asked_to_stop(tiny, tmp_path):
    folder = run_folder(tmp_path, tiny.id).path
    folder.mkdir(parents=True)
    with holding(folder), pytest.raises(InterruptedRun):
        attempts.attempt(tiny, tmp_path, device="cpu", interruption=Interruption(0))


PARENT = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from polyak.study.executors.local import LocalExecutor

@dataclass(frozen=True)
class Sleeps:
    id: str

    def check(self):
        Path(self.id).write_text(str(os.getpid()))
        time.sleep(600)

if __name__ == "__main__":
    LocalExecutor(workers=1)([Sleeps("pid")], Path("out"), lambda states: None)
"""


def test_workers_of_a_killed_parent_end(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    source = str(Path(polyak.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, env=environment)
    pid_file = tmp_path / "pid"
    started = time.monotonic()
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while _alive(int(pid_file.read_text())):
        assert time.monotonic() - started < 60
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        # A child that has ended but was not waited for still answers to kill.
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def test_there_is_at_least_one_core():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
