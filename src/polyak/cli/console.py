"""What a person sees while runs go on: on stderr, a live table in a terminal, lines elsewhere."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from polyak.data.sources import name_of
from polyak.records.runs import EpochRecord, run_folder
from polyak.records.vocabulary import BASELINE
from polyak.study.runner import Progress
from polyak.training.config import RunConfig
from polyak.training.jobs import Job
from polyak.training.overhead import OverheadConfig

SHOWN = 12
"""Rows of the live table: running jobs first, then the rest counted in one line."""


class StudyDisplay:
    """Shows a study's phases from the files that its runs write."""

    def __init__(self, out: Path, console: Console) -> None:
        self._out = out
        self._console = console
        self._live: Live | None = None
        self._before: dict[str, str] = {}

    @contextmanager
    def showing(self) -> Iterator["StudyDisplay"]:
        """Draw for the length of the block."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, transient=True, refresh_per_second=4) as self._live:
            yield self

    def __call__(self, progress: Progress) -> None:
        """Take in the state of a phase."""
        if self._live is not None:
            self._live.update(self._table(progress))
        else:
            self._lines(progress)

    def _lines(self, progress: Progress) -> None:
        for run_id, state in progress.states.items():
            if state in ("done", "failed") and self._before.get(run_id) != state:
                finished = sum(s in ("done", "failed") for s in progress.states.values())
                job = progress.jobs[run_id]
                words = f"{progress.phase} {finished}/{len(progress.states)}"
                self._console.print(f"{words}  {title(job)}  {self._ending(job, state)}")
            self._before[run_id] = state

    def _ending(self, job: Job, state: str) -> str:
        folder = run_folder(self._out, job.id)
        if state == "failed" or folder.ending is None:
            return "failed"
        epochs = folder.epochs()
        last = " ".join(epoch_cells(epochs, job)) if epochs and isinstance(job, RunConfig) else ""
        return f"{folder.ending} in {folder.facts()['seconds']:.0f} s  {last}"

    def _table(self, progress: Progress) -> Table:
        states = list(progress.states.values())
        counts = ", ".join(
            f"{states.count(state)} {state}"
            for state in ("done", "running", "waiting", "failed")
            if state in states
        )
        table = Table(title=f"{progress.phase}: {counts}", title_justify="left", box=None)
        for heading in ("run", "epoch", "rate", "loss", "best average so far", "images/s", "left"):
            table.add_column(heading, justify="left" if heading == "run" else "right")
        running = [run_id for run_id, state in progress.states.items() if state == "running"]
        for run_id in running[:SHOWN]:
            job = progress.jobs[run_id]
            epochs = run_folder(self._out, run_id).epochs()
            cells = epoch_cells(epochs, job) if isinstance(job, RunConfig) else []
            table.add_row(title(job), *cells)
        return table


def title(job: Job) -> str:
    """A run in a few words."""
    if isinstance(job, RunConfig):
        part = "search" if job.holdout else "refit"
        what = f"{name_of(job.data.source)} {Path(job.model.name).name}"
        return f"{what} {part} lr {job.optim.lr:g} seed {job.seed}"
    if isinstance(job, OverheadConfig):
        return f"overhead beside {Path(job.run.model.name).name}, {job.rounds} rounds"
    return f"linear probe on {job.data.source}"


def epoch_cells(epochs: Sequence[EpochRecord], config: RunConfig) -> list[str]:
    """Epoch, learning rate, training loss, best average so far, images/s and time left."""
    if not epochs:
        return ["starting"]
    last = epochs[-1]
    per_epoch = last.seconds / last.epoch
    images = last.step / last.epoch * config.batch_size
    return [
        f"{last.epoch}/{config.epochs}",
        f"{last.learning_rate:.3g}",
        f"{last.train.loss:.3f}",
        best_cell(epochs),
        f"{images / per_epoch:,.0f}/s",
        clock((config.epochs - last.epoch) * per_epoch),
    ]


@dataclass(frozen=True, slots=True)
class Best:
    """An average at the epoch at which it was most accurate."""

    average: str
    epoch: int
    accuracy: float


def best_average(epochs: Sequence[EpochRecord]) -> Best | None:
    """The most accurate average on the hold-out so far, by what selects; None without any."""
    scores = [
        (score.accuracy, -record.epoch, name)
        for record in epochs
        for name, score in (record.holdout_bn or record.holdout).items()
        if name != BASELINE
    ]
    if not scores:
        return None
    accuracy, epoch, name = max(scores)
    return Best(name, -epoch, accuracy)


def best_cell(epochs: Sequence[EpochRecord]) -> str:
    """The same in a table."""
    best = best_average(epochs)
    return "–" if best is None else f"{best.accuracy:.1%} {best.average} @{best.epoch}"


def failure_lines(failures: Mapping[str, str], out: Path, *, device: str = "cpu") -> list[str]:
    """What went wrong, run by run: its folder, the last lines of its error, how to repeat it."""
    lines = []
    for run_id, text in failures.items():
        folder = run_folder(out, run_id).path
        lines.append(f"failed: {folder}")
        lines += [f"  {line}" for line in text.strip().splitlines()[-3:]]
        words = ["polyak", "train", "--config", str(folder / "config.json"), "--out", str(out)]
        words += [] if device == "cpu" else ["--device", device]
        lines.append(f"  alone: {shlex.join(words)}")
    return lines


def clock(seconds: float) -> str:
    """Seconds as people read them: 0:45, 12:00, 1:30:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
