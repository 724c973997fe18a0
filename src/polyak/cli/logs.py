"""--log: curves of runs as they grow, handed on from the files of the runs."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import tyro
from rich.console import Console

from polyak.analysis.results import all_runs
from polyak.cli.console import title
from polyak.errors import FileError
from polyak.loggers.following import Follower, LoggerName
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.study.runner import Progress
from polyak.training.config_file import read_config

Log = tyro.conf.UseAppendAction[tuple[LoggerName, ...]]
"""The option's type."""


def followed(follower: Follower, show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """`show`, and the curves of a phase's runs are brought up to date."""

    def both(progress: Progress) -> None:
        for run, job in progress.jobs.items():
            follower.follow(run, title(job))
        show(progress)

    return both


def follow_study(follower: Follower, out: Path, name: str) -> None:
    """Bring the curves of all runs of a study up to date."""
    for row in read_study(out / name).rows:
        for run in all_runs(row):
            # A damaged run is the business of the page.
            with suppress(FileError):
                job = read_config(run_folder(out, run).path / "config.json")
                follower.follow(run, title(job))


def logger_fault(console: Console) -> Callable[[str, Exception], None]:
    """Says that a logger is not used any more; the runs go on."""

    def say(name: str, error: Exception) -> None:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        console.print(
            f"log {name} failed and is left out ({first}); the runs go on, and the same command "
            "brings it up to date"
        )

    return say
