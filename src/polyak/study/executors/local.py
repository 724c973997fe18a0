"""Jobs on this machine: a pool of processes with one thread each.

Several one-thread processes beat one process with several threads for networks of this size.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from polyak.errors import PolyakError
from polyak.study.executors import OnTick
from polyak.training.jobs import Job, carry_out

TICK_SECONDS = 0.5
Pool = ProcessPoolExecutor | ThreadPoolExecutor
Attempt = Callable[[Job, Path, str], str | None]
_LOST = ""
"""Stands for the error of a job whose pool broke, until it has been done again."""


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """A pool of `workers` processes on `device`."""

    workers: int
    device: str = "cpu"

    def __call__(self, jobs: Sequence[Job], out: Path, on_tick: OnTick) -> dict[str, str]:
        """See `Executor`. On Ctrl-C the processes are ended before the exception goes on."""
        if not jobs:
            return {}
        states: dict[str, str] = {}

        def tick(changed: Mapping[str, str]) -> None:
            states.update(changed)
            on_tick(dict(states))

        pool = _pool(min(self.workers, len(jobs)))
        failures = self._carry_out(pool, _attempt, jobs, out, tick)
        # A process that dies takes its whole pool along, and nothing tells whose fault it was.
        # So what was lost is done again with a process for each job.
        lost = [job for job in jobs if failures.get(job.id) == _LOST]
        if lost:
            threads = ThreadPoolExecutor(self.workers)
            failures |= self._carry_out(threads, _attempt_alone, lost, out, tick)
        return {name: text for name, text in failures.items() if text != _LOST}

    def _carry_out(
        self, pool: Pool, attempt: Attempt, jobs: Sequence[Job], out: Path, on_tick: OnTick
    ) -> dict[str, str]:
        futures = {pool.submit(attempt, job, out, self.device): job.id for job in jobs}
        try:
            return _watch(futures, on_tick)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):
                for process in multiprocessing.active_children():
                    process.terminate()
                wait(futures, timeout=TICK_SECONDS)
            raise
        finally:
            pool.shutdown()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watch(futures: dict[Future[str | None], str], on_tick: OnTick) -> dict[str, str]:
    failures: dict[str, str] = {}
    waiting = set(futures)
    while waiting:
        finished, waiting = wait(waiting, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
        for future in finished:
            failure = _outcome(future)
            if failure is not None:
                failures[futures[future]] = failure
        on_tick({name: _state(future, failures, name) for future, name in futures.items()})
    return failures


def _outcome(future: Future[str | None]) -> str | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return _LOST


def _state(future: Future[str | None], failures: dict[str, str], name: str) -> str:
    if future.done() and failures.get(name) != _LOST:
        return "failed" if name in failures else "done"
    return "running" if future.running() else "waiting"


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare_worker,
    )


def _prepare_worker() -> None:
    torch.set_num_threads(1)
    # The parent decides what Ctrl-C means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed could not end its workers, which would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _attempt_alone(job: Job, out: Path, device: str) -> str | None:
    with _pool(1) as pool:
        failure = _outcome(pool.submit(_attempt, job, out, device))
    if failure == _LOST:
        return "a worker process died; out of memory is the usual reason. Try fewer workers."
    return failure


def _attempt(job: Job, out: Path, device: str) -> str | None:
    try:
        carry_out(job, out, device=device)
    except PolyakError as error:
        return str(error)
    except Exception:
        # One run's bug must not stop the others; the text is shown at the end.
        return traceback.format_exc()
    return None
