"""Jobs on this machine: a pool of processes with one thread each.

Several one-thread processes beat one process with several threads for networks of this size.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import torch

from polyak.study.executors import OnTick
from polyak.study.executors.attempts import attempt
from polyak.training.config import Job
from polyak.training.interruption import Interruption

TICK_SECONDS = 0.5
Pool = ProcessPoolExecutor | ThreadPoolExecutor
Futures = dict[Future[str | None], str]
"""What comes of jobs, and their ids."""

_LOST = ""
"""Stands for the error of a job whose pool broke, until it has been done again."""


@dataclass(slots=True)
class LocalExecutor:
    """A pool of `workers` processes on `device`.

    Within `with LocalExecutor(…) as executor` all calls share one pool, whose processes import
    torch once; otherwise each call has its own.
    """

    workers: int
    device: str = "cpu"
    grace_seconds: float = 25.0
    """What runs have to write their checkpoints when they are interrupted."""

    _pool: ProcessPoolExecutor | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> "LocalExecutor":
        self._pool = _pool(self.workers)
        return self

    def __exit__(self, *_: object) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def __call__(self, jobs: Sequence[Job], out: Path, on_tick: OnTick) -> dict[str, str]:
        """See `Executor`.

        When it is interrupted, by Ctrl-C or by an exception of `on_tick`, runs write a
        checkpoint and their processes are ended before the exception goes on.
        """
        if not jobs:
            return {}
        if self._pool is None:
            with self:
                return self(jobs, out, on_tick)
        states: dict[str, str] = {}

        def tick(changed: Mapping[str, str]) -> None:
            states.update(changed)
            on_tick(dict(states))

        failures = self._watched(self._pool, self._submitted(jobs, out), tick)
        # A process that dies takes its whole pool along, and nothing tells whose fault it was.
        # So what was lost is done again with a process for each job.
        lost = [job for job in jobs if failures.get(job.id) == _LOST]
        if lost:
            with ThreadPoolExecutor(self.workers) as threads:
                alone = partial(_attempt_alone, out=out, device=self.device)
                again: Futures = {threads.submit(alone, job): job.id for job in lost}
                failures |= self._watched(threads, again, tick)
        return {name: text for name, text in failures.items() if text != _LOST}

    def _submitted(self, jobs: Sequence[Job], out: Path) -> Futures:
        try:
            return self._submit(jobs, out)
        except BrokenProcessPool:
            # A process died, in the call before or since. Those of the new pool start with work.
            assert self._pool is not None
            self._pool.shutdown()
            self._pool = _pool(self.workers)
            return self._submit(jobs, out)

    def _submit(self, jobs: Sequence[Job], out: Path) -> Futures:
        assert self._pool is not None
        return {self._pool.submit(_attempt, job, out, self.device): job.id for job in jobs}

    def _watched(self, pool: Pool, futures: Futures, on_tick: OnTick) -> dict[str, str]:
        try:
            return _watch(futures, on_tick)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end_workers(futures, self.grace_seconds)
            pool.shutdown()
            raise


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watch(futures: Futures, on_tick: OnTick) -> dict[str, str]:
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


def _end_workers(futures: Iterable[Future[str | None]], grace_seconds: float) -> None:
    """Ask all worker processes to leave; end those that have not when the time is up."""
    waiting = set(futures)
    asked: set[int | None] = set()
    deadline = time.monotonic() + grace_seconds
    try:
        while waiting and time.monotonic() < deadline:
            for process in multiprocessing.active_children():
                if process.pid not in asked:
                    process.terminate()
                    asked.add(process.pid)
            waiting = _unfinished(waiting)
    finally:
        # Also if nobody had the patience to wait.
        while waiting:
            for process in multiprocessing.active_children():
                process.kill()
            waiting = _unfinished(waiting)


def _unfinished(futures: set[Future[str | None]]) -> set[Future[str | None]]:
    """Those that are not done a moment later; `wait` alone waits for cancelled ones for ever."""
    wait({future for future in futures if not future.done()}, timeout=TICK_SECONDS)
    return {future for future in futures if not future.done()}


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
    signal.signal(signal.SIGTERM, _WORKER.asked_to_leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()


class _Worker:
    """A worker process, and how it leaves: at once when idle, else when its run allows it.

    It never goes back to its queue when it was asked to leave, since nobody may fill that again.
    """

    def __init__(self) -> None:
        self.interruption = Interruption()
        self._busy = False

    def asked_to_leave(self, number: int, _frame: FrameType | None) -> None:
        """What SIGTERM does."""
        self.interruption.signal_number = number
        if not self._busy:
            os._exit(128 + number)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While a job is carried out."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if self.interruption.signal_number is not None:
                os._exit(128 + self.interruption.signal_number)


_WORKER = _Worker()


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
    with _WORKER.busy():
        return attempt(job, out, device=device, interruption=_WORKER.interruption)
