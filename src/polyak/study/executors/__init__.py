"""Where jobs are carried out. An executor is a function of jobs; files are the result."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from polyak.training.config import Job

OnTick = Callable[[Mapping[str, str]], None]
"""Called about twice a second with the state of each job: waiting, running, done or failed."""


class Executor(Protocol):
    """Carries out jobs that do not depend on each other."""

    def __call__(self, jobs: Sequence[Job], out: Path, on_tick: OnTick) -> dict[str, str]:
        """Do every job, whatever happens to the others.

        Args:
            jobs: What is missing in `out`.
            out: The output folder.
            on_tick: Told of progress.

        Returns:
            For each job that failed, by id, the text of its error.
        """
        ...
