"""polyak train: one run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from polyak.cli.console import (
    HEADINGS,
    arm_line,
    decoding_lines,
    epoch_cells,
    evaluation_heading,
    in_columns,
    title,
)
from polyak.cli.logs import Log, logger_fault
from polyak.cli.options.time_limit import seconds_of
from polyak.data import load, partition, prepare
from polyak.data.decoding import OnDecoded
from polyak.errors import ConfigError
from polyak.loggers.following import following
from polyak.metrics import accuracy, cross_entropy
from polyak.models import pinned, pinned_whole
from polyak.records.predictions import Predictions
from polyak.records.runs import EpochRecord, run_folder
from polyak.training.arms import ArmProgress
from polyak.training.config import Job, OverheadConfig, RunConfig
from polyak.training.config_file import read_config
from polyak.training.faster_precision import settled
from polyak.training.interruption import Interruption
from polyak.training.jobs import carry_out, usable_device

BESIDE_A_FILE = ("--config", "--out", "--device", "--time-limit", "--log")
"""Flags that say nothing about the run itself."""


@dataclass(frozen=True)
class TrainCommand:
    """Train one network with its bank of averages, and compare them on the test set."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]

    from_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """The config.json of a run's folder: repeat or go on with that run. No other setting of it may
    be given."""

    out: Path = Path("out")
    """Output folder."""

    device: str = "cpu"
    """Where to compute: cpu, cuda."""

    time_limit: str | None = None
    """Such as 9m or 1h30m: write a checkpoint and stop (code 75) before; call again to go on."""

    log: Log = ()
    """Curves as they grow, to out/logs/: csv, tensorboard (polyak[tensorboard]) or wandb
    (polyak[wandb]). Can be given several times."""

    def check_words(self, words: Sequence[str]) -> None:
        """Refuse settings of the run beside its file.

        Args:
            words: Of the command line. What was parsed cannot tell a setting that was given its
                default from one that was not given.

        Raises:
            ConfigError: that names them.
        """
        if self.from_file is None:
            return
        flags = [word.partition("=")[0].replace("_", "-") for word in words]
        settings = [flag for flag in flags if flag.startswith("--") and flag not in BESIDE_A_FILE]
        if settings:
            raise ConfigError(
                f"config is '{self.from_file}' and {', '.join(settings)} is given too; expected "
                "one or the other. Leave the settings of the run out, or the file."
            )

    def run(self) -> int:
        """Exit code: 0 done, 1 diverged."""
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        config = self._job(decoding_lines(console))
        device = usable_device(self.device)
        if isinstance(config, RunConfig) and config.precision == "auto":
            data = partition(load(config.data), config.data, holdout=config.holdout)
            choice = settled(config, data, self.out, device=device)
            config = choice.config
            console.print(choice.reason)
        interruption = Interruption(seconds_of(self.time_limit))
        epochs: list[EpochRecord] = []
        headed: set[str] = set()

        def show(record: EpochRecord) -> None:
            epochs.append(record)
            follower.follow(config.id, title(config))
            if isinstance(config, RunConfig):
                if len(epochs) == 1:
                    console.print(in_columns(HEADINGS))
                console.print(in_columns(epoch_cells(epochs, config)))

        def show_arm(progress: ArmProgress) -> None:
            if progress.kind not in headed:
                headed.add(progress.kind)
                console.print(evaluation_heading(progress))
            # Of many variants most are equal to an arm, and take no time.
            if progress.kind == "arms" or progress.equal_to is None:
                console.print(arm_line(progress))

        with (
            following(self.out, self.log, on_fault=logger_fault(console)) as follower,
            interruption.by_signals(),
        ):
            console.print(f"{title(config)}  →  {run_folder(self.out, config.id).path}")
            follower.follow(config.id, title(config))
            carry_out(
                config,
                self.out,
                device=self.device,
                on_epoch=show,
                on_arm=show_arm,
                interruption=interruption,
            )
        return _report(config, self.out)

    def _job(self, on_decoded: OnDecoded) -> Job:
        ready = partial(prepare, on_decoded=on_decoded)
        if self.from_file is None:
            self.config.check()
            model = self.config.model
            job = replace(
                self.config,
                data=ready(self.config.data),
                model=pinned(model),
            )
            # Earlier versions named runs of a user's network by the whole of its file.
            before = replace(job, model=pinned_whole(model))
            return before if run_folder(self.out, before.id).path.exists() else job
        read = read_config(self.from_file)
        if isinstance(read, OverheadConfig):
            return replace(read, run=replace(read.run, data=ready(read.run.data)))
        return replace(read, data=ready(read.data))


def _report(config: Job, out: Path) -> int:
    folder = run_folder(out, config.id)
    if folder.ending == "diverged":
        facts = folder.facts()
        rate = f" (it is {config.optim.lr:g})" if isinstance(config, RunConfig) else ""
        print(f"diverged in epoch {facts.get('epoch', '?')}; lower --optim.lr{rate}")
        return 1
    if isinstance(config, OverheadConfig):
        print(f"timings: {folder.timings.resolve()}")
        return 0
    predictions = Predictions(folder.predictions)
    labels_n = predictions.labels_n("test")
    print(f"{'arm':<14}{'test accuracy':>14}{'test loss':>12}")
    for arm in predictions.arms("test"):
        logits_nk = predictions.logits_nk("test", arm)
        right, loss = accuracy(logits_nk, labels_n), cross_entropy(logits_nk, labels_n)
        print(f"{arm:<14}{right:>14.2%}{loss:>12.4f}")
    print(f"run: {folder.path.resolve()}")
    return 0
