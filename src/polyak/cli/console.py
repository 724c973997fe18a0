"""What a person sees while runs go on: on stderr, a live table in a terminal, lines elsewhere."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from polyak.data.config import name_of
from polyak.records.runs import EpochRecord, run_folder
from polyak.records.vocabulary import BASELINE
from polyak.training.config import Job, OverheadConfig, RunConfig

if TYPE_CHECKING:
    # `polyak status` has use for neither, and they import torch.
    from polyak.study.runner import Progress
    from polyak.training.arms import ArmProgress

SHOWN = 12
"""Rows of the live table: running jobs first, then the rest counted in one line."""

DECODING_SECONDS = 5.0
"""Between two lines on a data set that is decoded."""


HEADINGS = ("epoch", "rate", "loss", "best average so far", "inputs/s", "left")
WIDTHS = (9, 9, 7, 24, 10, 8)


class StudyDisplay:
    """Shows a study's phases from the files that its runs write.

    Args:
        out: The output folder.
        console: Where to show them.
        planned: Runs of the whole study, for the time that is left of it; 0 if not known.
    """

    def __init__(self, out: Path, console: Console, *, planned: int = 0) -> None:
        self._out = out
        self._console = console
        self._planned = planned
        self._first: tuple[float, float] | None = None
        """When the first look was taken, and the share that was done then."""
        self._live: Live | None = None
        self._before: dict[str, str] = {}
        self._headed = False

    @contextmanager
    def showing(self) -> Iterator["StudyDisplay"]:
        """Draw for the length of the block."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, transient=True, refresh_per_second=4) as self._live:
            yield self

    def __call__(self, progress: "Progress") -> None:
        """Take in the state of a phase."""
        if self._live is not None:
            self._live.update(self._shown(progress))
        else:
            self._lines(progress)

    def _lines(self, progress: "Progress") -> None:
        if self._first is None:
            # From here on time and work are counted.
            self._overall(progress)
        for run_id, state in progress.states.items():
            if state in ("done", "failed") and self._before.get(run_id) != state:
                finished = sum(s in ("done", "failed") for s in progress.states.values())
                job = progress.jobs[run_id]
                if not self._headed:
                    self._console.print(f"phase, run, how it ended, {', '.join(HEADINGS)}")
                    self._headed = True
                words = f"{progress.phase} {finished}/{len(progress.states)}"
                ending, overall = self._ending(job, state), self._overall(progress)
                self._console.print(
                    f"{words}  {title(job)}  {ending}{overall and f'  ({overall})'}"
                )
            self._before[run_id] = state

    def _ending(self, job: Job, state: str) -> str:
        folder = run_folder(self._out, job.id)
        if state == "failed" or folder.ending is None:
            return "failed"
        epochs = folder.epochs()
        last = " ".join(epoch_cells(epochs, job)) if epochs and isinstance(job, RunConfig) else ""
        return f"{folder.ending} in {folder.facts()['seconds']:.0f} s  {last}"

    def _shown(self, progress: "Progress") -> Group:
        """The table of what runs, under a bar for the whole study."""
        table = self._table(progress)
        if not self._planned:
            return Group(table)
        done = self._done(progress)
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(total=1.0, completed=done, width=40), self._overall(progress))
        return Group(bar, table)

    def _done(self, progress: "Progress") -> float:
        """Share of the study's runs that are done, of those under way their epochs."""
        states = progress.states
        ended = progress.before + sum(state in ("done", "failed") for state in states.values())
        under_way = 0.0
        for run_id, state in states.items():
            job = progress.jobs.get(run_id)
            if state == "running" and isinstance(job, RunConfig):
                under_way += len(run_folder(self._out, run_id).epochs()) / job.epochs
        return min(1.0, (ended + under_way) / self._planned)

    def _overall(self, progress: "Progress") -> str:
        """How far the whole study is, and about how long it goes on; empty if not known."""
        if not self._planned:
            return ""
        done, now = self._done(progress), time.monotonic()
        self._first = self._first or (now, done)
        started, at_start = self._first
        text = f"{done:.0%} of {self._planned} runs"
        if done in (at_start, 1.0):
            return text
        left = (now - started) * (1 - done) / (done - at_start)
        return f"{text}, about {clock(left)} left"

    def _table(self, progress: "Progress") -> Table:
        states = list(progress.states.values())
        counts = ", ".join(
            f"{states.count(state)} {state}"
            for state in ("done", "running", "waiting", "failed")
            if state in states
        )
        table = Table(title=f"{progress.phase}: {counts}", title_justify="left", box=None)
        for heading in ("run", *HEADINGS):
            table.add_column(heading, justify="left" if heading == "run" else "right")
        running = [run_id for run_id, state in progress.states.items() if state == "running"]
        for run_id in running[:SHOWN]:
            job = progress.jobs[run_id]
            epochs = run_folder(self._out, run_id).epochs()
            cells = running_cells(epochs, job) if isinstance(job, RunConfig) else []
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
    """Epoch, learning rate, training loss, best average so far, inputs/s and time left."""
    if not epochs:
        return ["starting"]
    last = epochs[-1]
    per_epoch = last.seconds / last.epoch
    inputs = last.step / last.epoch * config.batch_size
    return [
        f"{last.epoch}/{config.epochs}",
        f"{last.learning_rate:.3g}",
        f"{last.train.loss:.3f}",
        best_cell(epochs),
        f"{inputs / per_epoch:,.0f}/s",
        clock((config.epochs - last.epoch) * per_epoch),
    ]


def running_cells(epochs: Sequence[EpochRecord], config: RunConfig) -> list[str]:
    """The same of a run that has not ended, which evaluates its arms after the last epoch."""
    cells = epoch_cells(epochs, config)
    return [*cells[:-1], "evaluating"] if len(epochs) == config.epochs else cells


def evaluation_heading(progress: "ArmProgress") -> str:
    """How many arms are evaluated, and on how many images, or windows of text, of which parts."""
    words = {"test": "test", "holdout": "hold-out", "train": "training"}
    counts = [f"{progress.images[p]:,} {words[p]}" for p in words if p in progress.images]
    *first, last = counts
    text = f"{', '.join(first)} and {last}" if first else last
    return f"evaluating {progress.total} {progress.kind} on {text} {progress.inputs}"


def arm_line(progress: "ArmProgress") -> str:
    """Which arm is evaluated, and of which it has the predictions."""
    place = f"{progress.number}/{progress.total}"
    equal = f", equal to {progress.equal_to}" if progress.equal_to else ""
    return f"{place:>9}  {progress.arm}{equal}"


def in_columns(cells: Sequence[str]) -> str:
    """Cells of an epoch, or their headings, one under the other in successive lines."""
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


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


def decoding_lines(console: Console) -> Callable[[int, int], None]:
    """What says every five seconds how many images of a data set are decoded."""
    said: float | None = None

    def say(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        said = now if said is None else said
        if now - said >= DECODING_SECONDS:
            said = now
            console.print(f"decoded {done:,} of {total:,} images")

    return say


def clock(seconds: float) -> str:
    """Seconds as people read them: 0:45, 12:00, 1:30:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
