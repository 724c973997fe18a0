"""Jobs on the machines of a Ray cluster: fractions of GPUs, retries where a machine is lost.

The output folder and the cache must be on storage that all machines share. Ray says which job
runs where and does a lost one again; that it then goes on from its checkpoint is the doing of
the run's folder, as everywhere else.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polyak.data.cache import cache_root
from polyak.errors import ConfigError
from polyak.records.locks import holder
from polyak.records.runs import run_folder
from polyak.study.executors import OnTick
from polyak.study.executors.attempts import attempt
from polyak.training.checkpoint import SECONDS
from polyak.training.config import Job
from polyak.training.interruption import InterruptedRun, Interruption

TICK_SECONDS = 0.5
KNOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RayExecutor:
    """Runs on the cluster that this process is connected to; see `connected`."""

    workers: int
    """Runs that the cluster has room for at a time, as it is now; for the record."""

    device: str = "cpu"
    cpus: float = 1.0
    """Of each run. Also its threads, at least one."""

    gpus: float = 0.0
    """Of each run; a fraction shares one."""

    retries: int = 5
    """How often a run is begun again whose process or machine was lost."""

    grace_seconds: float = 25.0
    """What runs have to write their checkpoints when they are interrupted."""

    checkpoint_seconds: float = SECONDS

    def __call__(self, jobs: Sequence[Job], out: Path, on_tick: OnTick) -> dict[str, str]:
        """See `Executor`. When it is interrupted runs write a checkpoint before they end."""
        if not jobs:
            return {}
        work = _Work(
            out=out.resolve(),
            cache=cache_root().resolve(),
            folder=Path.cwd(),
            device=self.device,
            threads=max(1, int(self.cpus)),
            checkpoint_seconds=self.checkpoint_seconds,
        )
        remote = (
            _ray()
            .remote(_attempt)
            .options(
                num_cpus=self.cpus,
                num_gpus=self.gpus,
                max_retries=self.retries,
                # What a machine that is taken away raises when it has told its processes so.
                retry_exceptions=[InterruptedRun],
            )
        )
        references = {remote.remote(job, work): job.id for job in jobs}
        try:
            return self._watch(references, out, on_tick)
        except BaseException:
            _stop(list(references), self.grace_seconds)
            raise

    def _watch(self, references: Mapping[Any, str], out: Path, on_tick: OnTick) -> dict[str, str]:
        failures: dict[str, str] = {}
        states = dict.fromkeys(references.values(), "waiting")
        waiting = list(references)
        while waiting:
            finished, waiting = _ray().wait(
                waiting, num_returns=len(waiting), timeout=TICK_SECONDS, fetch_local=False
            )
            for reference in finished:
                failure = self._outcome(reference)
                if failure is not None:
                    failures[references[reference]] = failure
                states[references[reference]] = "done" if failure is None else "failed"
            for name in (references[reference] for reference in waiting):
                at_work = holder(run_folder(out, name).path) is not None
                states[name] = "running" if at_work else "waiting"
            on_tick(dict(states))
        return failures

    def _outcome(self, reference: Any) -> str | None:
        from ray.exceptions import RayError, RayTaskError

        try:
            failure: str | None = _ray().get(reference)
        except RayTaskError as error:
            # What went wrong outside of the job, such as a machine that lacks this package.
            return str(error)
        except RayError as error:
            first = str(error).strip().splitlines()[0]
            return (
                f"its process was lost {self.retries + 1} times, the last time so: {first} Out of "
                "memory is the usual reason. Give each run more CPUs, so that fewer share a "
                "machine."
            )
        return failure


@contextmanager
def connected(
    address: str | None = None,
    *,
    device: str = "cpu",
    cpus: float = 1.0,
    gpus: float = 0.0,
    checkpoint_seconds: float = SECONDS,
) -> Iterator[RayExecutor]:
    """An executor on a cluster, for the length of the block.

    Args:
        address: Of a running cluster, such as 10.0.0.1:6379, or "auto" for the one that this
            machine belongs to. None starts one of this machine alone, reachable from it only.
        device: Where to compute.
        cpus: Of each run, > 0.
        gpus: Of each run, >= 0; a fraction shares one.
        checkpoint_seconds: Between checkpoints of a run, see `Checkpoints`.

    Raises:
        ConfigError: if Ray is not installed, nobody answers, or no machine has that much.
    """
    _check(device, cpus, gpus)
    # Ray puts its own in place of the command line's.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _connect(address)
        signal.signal(signal.SIGTERM, on_sigterm)
        workers = _room(cpus, gpus)
        yield RayExecutor(
            workers=workers,
            device=device,
            cpus=cpus,
            gpus=gpus,
            checkpoint_seconds=checkpoint_seconds,
        )
    finally:
        _ray().shutdown()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a worker on any machine must know beside its job."""

    out: Path
    cache: Path
    folder: Path
    """Where paths of a user's files begin, on machines that have it."""

    device: str
    threads: int
    checkpoint_seconds: float


def _attempt(job: Job, work: _Work) -> str | None:
    """What a worker does: Ray's way to ask it to leave is an interrupt, as by Ctrl-C."""
    os.environ["POLYAK_CACHE"] = str(work.cache)
    if work.folder.is_dir():
        os.chdir(work.folder)
    torch.set_num_threads(work.threads)
    with Interruption().by_signals() as interruption:
        return attempt(
            job,
            work.out,
            device=work.device,
            interruption=interruption,
            checkpoint_seconds=work.checkpoint_seconds,
        )


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "executor is 'ray', which is not installed; expected the package's extra of that "
            'name. Run `pip install "polyak[ray]"`.'
        ) from error
    return ray


def _check(device: str, cpus: float, gpus: float) -> None:
    faults = []
    if not cpus > 0:
        faults.append(f"cpus_per_run is {cpus!r}; expected > 0")
    if not gpus >= 0:
        faults.append(f"gpus_per_run is {gpus!r}; expected >= 0")
    if device.startswith("cuda") != (gpus > 0):
        faults.append(
            f"device is {device!r} with gpus_per_run {gpus!r}; expected cuda with a share > 0 or "
            "cpu with none"
        )
    if faults:
        raise ConfigError.of("executor ray", faults)


def _connect(address: str | None) -> None:
    # Ray would tell its makers that it is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # Only so do all its parts listen to this machine alone. It asks when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        settings["include_dashboard"] = False
    ray = _ray()
    try:
        _knock(address)
        ray.init(address or "local", **settings)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"address is {address!r}, where no Ray cluster answers ({first}); expected one, such "
            "as `ray start --head` prints. Start it, or leave the address out to use this machine."
        ) from error


def _knock(address: str | None) -> None:
    """See that somebody listens: Ray itself asks a wrong address for ten minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def _room(cpus: float, gpus: float) -> int:
    """Runs that fit on the machines that are there now."""
    resources = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
    room = 0
    for has in resources:
        fitting = int(has.get("CPU", 0.0) / cpus + 1e-6)
        room += min(fitting, int(has.get("GPU", 0.0) / gpus + 1e-6)) if gpus else fitting
    if not room:
        most = {name: max(has.get(name, 0.0) for has in resources) for name in ("CPU", "GPU")}
        raise ConfigError(
            f"a run asks for {cpus:g} CPUs and {gpus:g} GPUs; expected what one machine of the "
            f"cluster has (at most {most['CPU']:g} and {most['GPU']:g}). Change cpus_per_run or "
            "gpus_per_run."
        )
    return room


def _stop(references: list[Any], grace_seconds: float) -> None:
    """Ask all runs to leave, and end those that have not when the time is up."""
    ray = _ray()
    for reference in references:
        ray.cancel(reference)
    deadline = time.monotonic() + grace_seconds
    try:
        waiting = references
        while waiting and time.monotonic() < deadline:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=TICK_SECONDS)
    finally:
        # Also if nobody had the patience to wait.
        for reference in waiting:
            ray.cancel(reference, force=True)
