"""Carrying out one piece of work in its folder, from the prepared cache to DONE."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from polyak.data import load, partition
from polyak.errors import ConfigError, NonFiniteError
from polyak.records.runs import EpochRecord, run_folder
from polyak.training.arms import write_arms
from polyak.training.config import RunConfig
from polyak.training.loop import DivergedError, Run
from polyak.training.probe import ProbeConfig, run_probe

Job = RunConfig | ProbeConfig
OnEpoch = Callable[[EpochRecord], None]


def carry_out(job: Job, out: Path, *, device: str = "cpu", on_epoch: OnEpoch | None = None) -> None:
    """Do a job and leave its result in `out/runs/<id>/`; nothing is done if it is there.

    Args:
        job: A training run or a probe; its data must be prepared.
        out: The output folder.
        device: Where to compute.
        on_epoch: Called with each epoch's record.
    """
    if run_folder(out, job.id).ending is not None:
        return
    job.check()
    run_folder(out, job.id).write_config(job.record())
    if isinstance(job, ProbeConfig):
        _probe(job, out)
    else:
        _train(job, out, usable_device(device), on_epoch or _ignore)


def usable_device(name: str) -> torch.device:
    """A device by its name.

    Raises:
        ConfigError: if torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device is {name!r}, which cannot be used ({reason}); expected cpu, or cuda on a "
            "machine with a GPU and a build of torch for it."
        ) from error
    return device


def _train(config: RunConfig, out: Path, device: torch.device, on_epoch: OnEpoch) -> None:
    folder = run_folder(out, config.id)
    started = time.monotonic()
    data = partition(load(config.data), config.data, holdout=config.holdout)
    run = Run(config, data, device=device)

    def record(epoch: EpochRecord) -> None:
        folder.write_epochs(run.trained.epochs)
        if run.trained.monitors:
            folder.write_monitors(run.trained.monitors)
        on_epoch(epoch)

    try:
        trained = run.train(record)
        write_arms(run, trained, folder)
    except DivergedError as error:
        folder.finish("diverged", epoch=error.epoch, step=error.step, seconds=_since(started))
        return
    except NonFiniteError:
        # A run that evaluates nothing as it goes can break in its very last step.
        folder.finish("diverged", epoch=config.epochs, step=run.step, seconds=_since(started))
        return
    folder.finish("done", images=len(data.train_given_n), seconds=_since(started))


def _probe(config: ProbeConfig, out: Path) -> None:
    started = time.monotonic()
    data = partition(load(config.data), config.data, holdout=False)
    classes = {run.id: len(load(run.data).train.classes) for run in config.backbones}
    run_probe(config, data, classes, out)
    run_folder(out, config.id).finish("done", seconds=_since(started))


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _ignore(_record: EpochRecord) -> None:
    """What happens to an epoch's record where nobody asks for it."""
