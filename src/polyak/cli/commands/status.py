"""polyak status: how far all runs are, from another terminal."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, get_args

import tyro
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from polyak.cli.console import best_average, best_cell, clock, title
from polyak.cli.json_output import print_json
from polyak.errors import ConfigError
from polyak.study.status import RunStatus, State, StudyStatus, overview
from polyak.training.config import RunConfig

WATCH_SECONDS = 2.0
COLUMNS = ("run", "state", "epoch", "best average", "checkpoint", "left", "what")
"""Those without an entry are left out."""
WRAPPED = {"best average": 10, "what": 12}
"""Columns whose cells may take more than one line, and the least that they keep."""


@dataclass(frozen=True)
class StatusCommand:
    """Show how far the runs of an output folder are; nothing is changed."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("out")
    """The output folder, or a study's folder in it."""

    watch: bool = False
    """Look again every two seconds, until Ctrl-C."""

    json: bool = False
    """One JSON object on stdout instead, see docs/json.md."""

    def run(self) -> int:
        """Exit code 0."""
        if self.json:
            return self._print_json()
        console = Console(soft_wrap=True)
        if not console.is_terminal:
            # A file or pipe has no edge to break lines at.
            console.width = 200
        shown = _tables(overview(self.folder))
        if not self.watch:
            console.print(shown)
            return 0
        try:
            with Live(shown, console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(WATCH_SECONDS)
                    live.update(_tables(overview(self.folder)), refresh=True)
        except KeyboardInterrupt:
            return 0

    def _print_json(self) -> int:
        if self.watch:
            raise ConfigError("watch is given with json; expected one of the two. Call it again.")
        studies = overview(self.folder)
        print_json("polyak-status", {"studies": [_study_values(study) for study in studies]})
        return 0


def _study_values(study: StudyStatus) -> dict[str, object]:
    return {
        "name": study.name,
        "title": study.title,
        "fault": study.fault,
        "unplanned": study.unplanned,
        "seconds_left": study.seconds_left,
        "claims": study.claims,
        "registered": study.registered,
        "changes": list(study.changes),
        "runs": [_run_values(run) for run in study.runs],
    }


def _run_values(run: RunStatus) -> dict[str, object]:
    best, who = best_average(run.epochs), run.holder
    return {
        "id": run.id,
        "state": run.state,
        "what": title(run.job) if run.job else None,
        "epoch": run.epochs[-1].epoch if run.epochs else 0,
        "epochs": run.job.epochs if isinstance(run.job, RunConfig) else None,
        "best": best and asdict(best),
        "checkpoint_age": run.checkpoint_age,
        "seconds": run.seconds,
        "seconds_left": run.seconds_left,
        "process": who and {"pid": who.pid, "host": who.host, "alive": who.alive},
        "checked": run.checked,
        "note": run.note or None,
    }


def _tables(studies: Sequence[StudyStatus]) -> Group:
    parts: list[Text | Table] = []
    for study in studies:
        parts.append(Text(_heading(study)))
        if study.runs:
            parts += [_table(study.runs), *_notes(study.runs)]
    return Group(*parts)


def _heading(study: StudyStatus) -> str:
    if study.fault is not None:
        return f"{study.name}: damaged: {study.fault}"
    states = [run.state for run in study.runs]
    counts = [f"{states.count(state)} {state}" for state in get_args(State) if state in states]
    if study.unplanned:
        counts.append(f"{study.unplanned} yet to be chosen")
    name = f"{study.name} ({study.title})" if study.title else study.name
    left = study.seconds_left
    ends = [f"about {clock(left)} left"] if left else []
    return "; ".join([f"{name}: {', '.join(counts)}", *ends, *_claimed(study)])


def _claimed(study: StudyStatus) -> list[str]:
    """What became of a study's own claims, in a few words; nothing where it has none."""
    if study.registered is None:
        return ["its claims are not registered"] if study.claims else []
    day = study.registered.partition("T")[0]
    return [f"claims registered on {day}" + (", changed since" if study.changes else "")]


def _table(runs: Sequence[RunStatus]) -> Table:
    rows = [_cells(run) for run in runs]
    table = Table(box=None, pad_edge=False)
    shown = [i for i, column in enumerate(COLUMNS) if any(row[i] for row in rows)]
    for i in shown:
        widest = max(cell_len(row[i]) for row in rows)
        # In a narrow terminal some cells take two lines; the others are always whole.
        wraps = WRAPPED.get(COLUMNS[i])
        table.add_column(
            COLUMNS[i],
            justify="right" if COLUMNS[i] in ("epoch", "checkpoint", "left") else "left",
            min_width=min(wraps, widest) if wraps else max(widest, len(COLUMNS[i])),
            no_wrap=wraps is None,
        )
    for row in rows:
        table.add_row(*(Text(row[i]) for i in shown))
    return table


def _notes(runs: Sequence[RunStatus]) -> list[Text]:
    """Why runs failed or are damaged, in full, and how many cannot be checked."""
    notes = [Text(f"{run.id}: {run.note}") for run in runs if run.note]
    if old := sum(not run.checked for run in runs):
        notes.append(Text(f"{old} of {len(runs)} ended before records had checksums"))
    return notes


def _cells(run: RunStatus) -> tuple[str, ...]:
    """In the order of `COLUMNS`."""
    age = "" if run.checkpoint_age is None else f"{clock(run.checkpoint_age)} ago"
    left = "" if run.seconds_left is None else clock(run.seconds_left)
    best = best_cell(run.epochs) if run.epochs else ""
    what = title(run.job) if run.job else ""
    what = "  ".join(filter(None, (what, _who(run))))
    return run.id, run.state, _epoch(run), best, age, left, what


def _epoch(run: RunStatus) -> str:
    if not isinstance(run.job, RunConfig):
        return str(run.epochs[-1].epoch) if run.epochs else ""
    return f"{run.epochs[-1].epoch if run.epochs else 0}/{run.job.epochs}"


def _who(run: RunStatus) -> str:
    """Where a run is at work, or was."""
    if run.holder is None:
        return ""
    where = f"process {run.holder.pid} on {run.holder.host}"
    return where if run.state == "running" else f"{where}, which has ended"
