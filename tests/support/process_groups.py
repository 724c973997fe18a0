"""Real processes that train together, for the tests of sharded averages.

Three processes are started once. They form a world of two, of three, of two again and of one,
one after the other, and go through the checks of each. A check that passed leaves a file.
"""

import datetime
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SECONDS = 500
HEAVY = ["torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.tensor"]


@dataclass(frozen=True)
class World:
    """What a check sees: its process's rank, how many there are, and a folder that all share."""

    rank: int
    size: int
    folder: Path


Check = Callable[[World], None]


def run_all(phases: Sequence[tuple[str, int, Sequence[Check]]], folder: Path) -> None:
    """Carry out each phase's checks on its number of processes; `passed` reads how it went."""
    # Forked from a process that has torch and nothing else: three imports of it take half a minute.
    torch.multiprocessing.set_forkserver_preload(HEAVY)
    context = mp.start_processes(
        _process, (phases, folder), nprocs=3, join=False, start_method="forkserver"
    )
    end = time.monotonic() + SECONDS
    try:
        while not context.join(timeout=1):
            if time.monotonic() > end:
                raise TimeoutError(f"the processes were not done after {SECONDS} s")
    except Exception as error:
        (folder / "failure").write_text(str(error))
    finally:
        for process in context.processes:
            process.kill()


def outcome(folder: Path, phase: str, check: str) -> str:
    """ "passed", or why not."""
    if (folder / f"{phase}-{check}").exists():
        return "passed"
    failure = folder / "failure"
    return failure.read_text() if failure.exists() else "was not run"


def _process(rank: int, phases: Sequence[tuple[str, int, Sequence[Check]]], folder: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    for phase, size, checks in phases:
        if rank < size:
            _phase(World(rank, size, folder), phase, checks)
        # Those that take no part wait for the end of the phase.
        _wait_for(folder / f"{phase}-end", folder / "failure")


def _phase(world: World, phase: str, checks: Sequence[Check]) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{world.folder}/{phase}-store",
        rank=world.rank,
        world_size=world.size,
        timeout=datetime.timedelta(seconds=120),
    )
    for check in checks:
        torch.manual_seed(0)
        try:
            check(world)
        except BaseException as error:  # pytest's own failures are not Exceptions
            raise AssertionError(
                f"{phase}, {check.__name__}, rank {world.rank}:\n{traceback.format_exc()}"
            ) from error
        dist.barrier()
        if world.rank == 0:
            (world.folder / f"{phase}-{check.__name__}").touch()
    dist.barrier()
    dist.destroy_process_group()
    if world.rank == 0:
        (world.folder / f"{phase}-end").touch()


def _wait_for(end: Path, failure: Path) -> None:
    while not end.exists():
        if failure.exists():
            raise SystemExit(1)
        time.sleep(0.02)


def once(folder: Path, work: Callable[[Path], None]) -> Path:
    """Do some work in `folder` unless another test process has begun it; then wait for its end."""
    folder.mkdir(exist_ok=True)
    try:
        (folder / "begun").touch(exist_ok=False)
    except FileExistsError:
        end = time.monotonic() + 2 * SECONDS
        while not (folder / "done").exists() and time.monotonic() < end:
            time.sleep(0.1)
        return folder
    try:
        work(folder)
    finally:
        (folder / "done").touch()
    return folder
