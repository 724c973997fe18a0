"""Where a study's runs are carried out: on this machine or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from polyak.errors import ConfigError
from polyak.study.executors import Executor
from polyak.study.executors.local import LocalExecutor, available_cores
from polyak.study.executors.ray import connected
from polyak.training.jobs import usable_device


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What carries out the runs."""

    workers: int | None = None
    """Runs at a time, one thread each; all cores if not given, with cuda one. With ray the cluster
    decides."""

    device: str = "cpu"
    """Where to compute: cpu, cuda."""

    executor: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: the machines of a Ray cluster, which need this
    package, and the output folder and $POLYAK_CACHE on storage that all share."""

    address: str | None = None
    """Of the Ray cluster, such as 10.0.0.1:6379; without it Ray is started on this machine."""

    cpus_per_run: float = 1.0
    """What Ray sets apart for each run; also its threads."""

    gpus_per_run: float = 0.0
    """What Ray sets apart for each run; with 0.25 four runs share a GPU."""

    @property
    def trial_device(self) -> str | None:
        """Where networks can be tried before a study: None if only a cluster has the device."""
        return self.device if self.executor == "local" or self.device == "cpu" else None

    @contextmanager
    def ready(self) -> Iterator[tuple[Executor, int]]:
        """An executor for the length of the block, and how many runs it does at a time.

        Raises:
            ConfigError: if settings are outside their range or of the other executor.
        """
        if self.workers is not None and self.workers < 1:
            raise ConfigError(
                f"workers is {self.workers!r}; expected >= 1. Leave it out for all cores."
            )
        if self.executor == "local":
            if (self.address, self.cpus_per_run, self.gpus_per_run) != (None, 1.0, 0.0):
                raise ConfigError(
                    "address, cpus_per_run or gpus_per_run is given; expected none of them with "
                    "executor 'local'. Add `--executor ray`."
                )
            usable_device(self.device)
            # As many as there are cores would hardly ever fit into a GPU's memory.
            workers = self.workers or (1 if self.device.startswith("cuda") else available_cores())
            with LocalExecutor(workers=workers, device=self.device) as local:
                yield local, workers
            return
        if self.workers is not None:
            raise ConfigError(
                f"workers is {self.workers!r} with executor 'ray'; expected none, since the "
                "cluster decides. Use cpus_per_run and gpus_per_run."
            )
        with connected(
            self.address, device=self.device, cpus=self.cpus_per_run, gpus=self.gpus_per_run
        ) as executor:
            yield executor, executor.workers
