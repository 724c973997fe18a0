"""Jobs on this machine: a pool of processes with one thread each.

Several one-thread processes beat one process with several threads for networks of this size.
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from polyak.errors import PolyakError
from polyak.study.executors import OnTick
from polyak.training.jobs import Job, carry_out

TICK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """A pool of `workers` processes on `device`."""

    workers: int
    device: str = "cpu"

    def __call__(self, jobs: Sequence[Job], out: Path, on_tick: OnTick) -> dict[str, str]:
        """See `Executor`. On Ctrl-C the processes are ended before the exception goes on."""
        if not jobs:
            return {}
        pool = ProcessPoolExecutor(
            max_workers=min(self.workers, len(jobs)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare_worker,
        )
        futures = {pool.submit(_attempt, job, out, self.device): job.id for job in jobs}
        try:
            failures = _watch(futures, on_tick)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        pool.shutdown()
        return failures


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
    except BrokenProcessPool as error:
        return f"a worker process died ({error}); out of memory is the usual reason"


def _state(future: Future[str | None], failures: dict[str, str], name: str) -> str:
    if future.done():
        return "failed" if name in failures else "done"
    return "running" if future.running() else "waiting"


def _prepare_worker() -> None:
    torch.set_num_threads(1)
    # The parent decides what Ctrl-C means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _attempt(job: Job, out: Path, device: str) -> str | None:
    try:
        carry_out(job, out, device=device)
    except PolyakError as error:
        return str(error)
    except Exception:
        # One run's bug must not stop the others; the text is shown at the end.
        return traceback.format_exc()
    return None
