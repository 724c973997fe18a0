"""Carrying out one piece of work in its folder, from the prepared cache to DONE."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from polyak.data import Partition, load, partition
from polyak.data.normalisation import normalise
from polyak.errors import ConfigError, FileError, NonFiniteError, warn
from polyak.metrics.inputs import last_step
from polyak.models import check_fit, try_network
from polyak.models.trial import IMAGES
from polyak.records.cards import Card, commit_of_code, write_card
from polyak.records.locks import holding
from polyak.records.runs import EpochRecord, RunFolder, run_folder
from polyak.records.timings import write_timings
from polyak.training.arms import OnArm, write_arms, write_variants
from polyak.training.checkpoint import SECONDS, Checkpoints
from polyak.training.config import Job, OverheadConfig, ProbeConfig, RunConfig
from polyak.training.interruption import Interruption
from polyak.training.loop import DivergedError, Run
from polyak.training.machine import keep_freed_memory
from polyak.training.overhead import measure
from polyak.training.probe import as_taken, run_probe

OnEpoch = Callable[[EpochRecord], None]
OnDoubt = Callable[[str], None]
"""Told what is strange about a network that is trained all the same."""


def carry_out(
    job: Job,
    out: Path,
    *,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
    on_arm: OnArm | None = None,
    interruption: Interruption | None = None,
    checkpoint_seconds: float = SECONDS,
    on_doubt: OnDoubt = warn,
) -> None:
    """Do a job and leave its result in `out/runs/<id>/`; nothing is done if it is there.

    A run that was begun before goes on from its checkpoint. A new one has a folder only when all
    is known that can be refused.

    Args:
        job: A training run, a probe or a measurement; its data must be prepared.
        out: The output folder.
        device: Where to compute.
        on_epoch: Called with each epoch's record.
        on_arm: Called before each arm that is evaluated after the last epoch.
        interruption: Asked between two steps, and between two arms, whether to leave.
        checkpoint_seconds: Time between checkpoints; no part of what the run is.
        on_doubt: See `doubts`.

    Raises:
        ConfigError, DataError: if its settings, data and network are not there or do not fit.
        HeldError: if another process works on it.
        InterruptedRun: if it was asked to leave and did, with a checkpoint.
        FileError: if its folder cannot be written to.
        StateError: if its checkpoint is from where numbers round differently.
    """
    folder = run_folder(out, job.id)
    if folder.ending is not None:
        folder.sweep()
        return
    job.check()
    checkpoints = Checkpoints(folder.checkpoints, seconds=checkpoint_seconds)
    usable = usable_device(device)
    keep_freed_memory()
    work = None if folder.path.exists() else _work(job, usable, on_doubt)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with holding(folder.path):
            # Whoever held it until now may have ended it.
            if folder.ending is None:
                folder.tidy()
                folder.write_config(job.record())
                work = work or _work(job, usable)
                if isinstance(job, ProbeConfig):
                    _probe(job, work.data, out, usable)
                elif isinstance(job, OverheadConfig):
                    _measure(job, work.data, folder, usable, interruption)
                else:
                    session = _Session(
                        folder, checkpoints, on_epoch or _ignore, on_arm or _ignore, interruption
                    )
                    assert work.run is not None
                    _train(work.run, session)
                    checkpoints.remove()
    except OSError as error:
        raise FileError(
            f"the run in {folder.path} cannot go on ({error}); expected a folder that can be "
            "written to, on a disk with free space. Fix that and give the same command again: it "
            "goes on from its checkpoint."
        ) from error


def usable_device(name: str) -> torch.device:
    """A device by its name.

    Raises:
        ConfigError: if torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Of torch's lists of its own parts nothing helps.
        reason = str(error).partition(". ")[0].strip()
        said = f" ({reason})" if len(reason) <= 60 and "\n" not in reason else ""
        guess = " Did you mean 'cuda'?" if name.partition(":")[0] in ("gpu", "nvidia") else ""
        raise ConfigError(
            f"device is {name!r}, which cannot be used here{said}; expected cpu, or cuda on a "
            f"machine with a GPU and a build of torch for it.{guess}"
        ) from error
    return device


def doubts(
    config: RunConfig,
    data: Partition,
    device: torch.device,
    *,
    targets: Sequence[Partition] = (),
) -> list[str]:
    """What is strange about a run's network but may be meant; nothing is trained.

    Args:
        config: The run.
        data: What it trains on.
        device: Where to try it.
        targets: What its features are to be probed on.

    Raises:
        ConfigError: if the network does not fit to the data, or cannot be trained.
    """
    classes, channels = len(data.classes), data.train_images_nchw.shape[1]
    images, *others = (_some_images(part, device) for part in (data, *targets))
    others = [as_taken(other, channels) for other in others]
    for batch in (images, *others):
        check_fit(config.model, classes=classes, channels=channels, image_size=batch.shape[2])
    found = try_network(
        config.model, images, classes=classes, positions=data.positions, targets=others
    )
    return [] if found is None else [f"model {config.model.name} {x}" for x in _doubts(*found)]


def _doubts(logits_bk: Tensor, again_bk: Tensor) -> Iterator[str]:
    if not torch.allclose(logits_bk, again_bk, rtol=1e-3, atol=1e-5):
        yield (
            "gives other outputs when it is evaluated again; expected the same in eval mode. "
            "Every score of it is a draw: let it draw only while self.training."
        )
    step = last_step(logits_bk)
    if step is not None:
        yield (
            f"seems to end in {step}, by its outputs; expected logits, to which the loss and all "
            "metrics apply the softmax themselves. Leave that last step out."
        )


def _some_images(data: Partition, device: torch.device) -> Tensor:
    """A few training images as the network takes them."""
    images_nchw = data.train_images_nchw[:IMAGES].to(device)
    return normalise(images_nchw, *data.normalisation.factors(device))


@dataclass(frozen=True, slots=True)
class _Work:
    """What a job works with beside its folder."""

    data: Partition
    run: Run | None
    """Of a job that trains."""


def _work(job: Job, device: torch.device, on_doubt: OnDoubt | None = None) -> _Work:
    """Everything that can be refused is refused here; with `on_doubt` the network is tried."""
    trained = job.run if isinstance(job, OverheadConfig) else job
    holdout = isinstance(trained, RunConfig) and trained.holdout
    data = partition(load(trained.data), trained.data, holdout=holdout)
    if on_doubt is not None and isinstance(trained, RunConfig):
        for doubt in doubts(trained, data, device):
            on_doubt(doubt)
    return _Work(data, Run(job, data, device=device) if isinstance(job, RunConfig) else None)


@dataclass(frozen=True, slots=True)
class _Session:
    """What one process does beside training: records, checkpoints, leaving when asked."""

    folder: RunFolder
    checkpoints: Checkpoints
    on_epoch: OnEpoch
    on_arm: OnArm
    interruption: Interruption | None

    def record(self, run: Run) -> None:
        """Write the logs."""
        self.folder.write_epochs(run.trained.epochs)
        if run.trained.monitors:
            self.folder.write_monitors(run.trained.monitors)

    def rest(self, run: Run) -> None:
        """Between two steps or arms: write a checkpoint if it is time, and leave if asked."""
        asked = self.interruption is not None and self.interruption.made
        if asked or self.checkpoints.due():
            self.checkpoints.write(run)
        if self.interruption is not None and asked:
            raise self.interruption.error()


def _train(run: Run, session: _Session) -> None:
    folder = session.folder
    if session.checkpoints.resume(run):
        session.record(run)

    def record(epoch: EpochRecord) -> None:
        session.record(run)
        session.on_epoch(epoch)

    try:
        trained = run.train(record, on_rest=lambda: session.rest(run))
        write_arms(run, trained, folder, on_arm=session.on_arm, on_rest=lambda: session.rest(run))
        write_variants(run, trained, folder, on_arm=session.on_arm)
        write_card(folder, card_of(run.data, commit=commit_of_code()))
    except DivergedError as error:
        folder.finish("diverged", epoch=error.epoch, step=error.step, seconds=_seconds(run))
        return
    except NonFiniteError:
        # A run that evaluates nothing as it goes can break in its very last step.
        folder.finish("diverged", epoch=run.config.epochs, step=run.step, seconds=_seconds(run))
        return
    folder.finish("done", images=len(run.data.train_images_nchw), seconds=_seconds(run))


def card_of(data: Partition, *, commit: str | None = None) -> Card:
    """What is to be known of a run's data where only its weights are."""
    channels, height, width = data.train_images_nchw.shape[1:]
    return Card(
        classes=data.classes,
        image_shape=(channels, height, width),
        mean=data.normalisation.mean,
        std=data.normalisation.std,
        commit=commit,
    )


def _seconds(run: Run) -> float:
    return round(run.seconds(), 3)


def _measure(
    config: OverheadConfig,
    data: Partition,
    folder: RunFolder,
    device: torch.device,
    interruption: Interruption | None,
) -> None:
    started = time.monotonic()

    def leave_if_asked() -> None:
        if interruption is not None and interruption.made:
            raise interruption.error()

    timings = measure(config, data, device=device, on_round=leave_if_asked)
    write_timings(folder.timings, timings)
    folder.finish("done", seconds=round(time.monotonic() - started, 3))


def _probe(config: ProbeConfig, data: Partition, out: Path, device: torch.device) -> None:
    started = time.monotonic()
    sources = {run.id: load(run.data).train for run in config.backbones}
    run_probe(config, data, sources, out, device=device)
    seconds = round(time.monotonic() - started, 3)
    run_folder(out, config.id).finish("done", seconds=seconds)


def _ignore(_progress: object) -> None:
    """What happens to progress where nobody asks for it."""
