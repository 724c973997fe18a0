"""How far the runs of an output folder are, from their files alone: nothing is written or locked.

It may be asked at any moment, also of a folder that is being written or that is damaged.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polyak.errors import FileError, PolyakError
from polyak.records.locks import Holder, holder
from polyak.records.registration import changes, read_registration
from polyak.records.runs import EpochRecord, RunFolder, run_folder
from polyak.records.studies import RowRecord, StudyRecord, read_study
from polyak.training.config import Job, RunConfig
from polyak.training.config_file import read_config

State = Literal["running", "done", "diverged", "failed", "interrupted", "damaged", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """One run, as its files say."""

    id: str
    state: State
    job: Job | None = None
    """What it is, if that can be read."""

    epochs: Sequence[EpochRecord] = ()
    """So far."""

    holder: Holder | None = None
    """Who works on it, or did when it died."""

    checkpoint_age: float | None = None
    """Seconds since the newest checkpoint."""

    seconds: float | None = None
    """What a run that has ended took."""

    checked: bool = True
    """Whether the records of one that has ended have checksums."""

    note: str = ""
    """Of one that failed or is damaged: why, in a line."""

    @property
    def seconds_left(self) -> float | None:
        """Of a run that is at work, at the pace so far."""
        if self.state != "running" or not self.epochs or not isinstance(self.job, RunConfig):
            return None
        last = self.epochs[-1]
        return (self.job.epochs - last.epoch) * last.seconds / last.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus:
    """One study."""

    name: str
    runs: Sequence[RunStatus]
    title: str = ""
    unplanned: int = 0
    """Runs whose settings the search has yet to choose."""

    workers: int = 1
    claims: int = 0
    """How many it has of its own."""

    registered: str | None = None
    """When its claims were registered; None if they were not."""

    changes: Sequence[str] = ()
    """What it claims or plans otherwise than was registered."""

    fault: str | None = None
    """Why its plan or registration cannot be read, if it cannot."""

    @property
    def seconds_left(self) -> float | None:
        """An estimate: what is to be done takes what such runs took so far."""
        took = [run.seconds for run in self.runs if run.state == "done" and run.seconds]
        idle = sum(run.state in ("waiting", "interrupted", "failed") for run in self.runs)
        left = [run.seconds_left for run in self.runs if run.state == "running"]
        if any(seconds is None for seconds in left) or (idle + self.unplanned and not took):
            return None
        mean = sum(took) / len(took) if took else 0.0
        known = [seconds for seconds in left if seconds is not None]
        return (sum(known) + (idle + self.unplanned) * mean) / self.workers


def overview(folder: Path) -> list[StudyStatus]:
    """All studies of an output folder, or the one whose folder is given, then all other runs.

    Raises:
        FileError: if there is neither.
    """
    folder = folder.resolve()
    alone = (folder / "plan.json").exists()
    out = folder.parent if alone else folder
    plans = [folder] if alone else sorted(path.parent for path in out.glob("*/plan.json"))
    studies = [_study(out, path) for path in plans]
    if not alone:
        known = {run.id for study in studies for run in study.runs}
        folders = sorted(path for path in (out / "runs").glob("*") if path.is_dir())
        others = [path.name for path in folders if path.name not in known]
        if others:
            title = "runs that belong to no study" if studies else ""
            runs = [run_status(out, name) for name in others]
            studies.append(StudyStatus(name="runs", title=title, runs=runs))
    if not studies:
        raise FileError(
            f"{folder} holds no study and no run; expected an output folder of `polyak study` or "
            "`polyak train`, or a study's folder in it."
        )
    return studies


def run_status(out: Path, run_id: str) -> RunStatus:
    """One run of an output folder, whether it was begun or not."""
    folder = run_folder(out, run_id)
    if not folder.path.is_dir():
        return RunStatus(id=run_id, state="waiting")
    try:
        job = read_config(folder.path / "config.json")
    except (PolyakError, OSError):
        job = None
    try:
        ending = folder.ending
        seconds = folder.facts().get("seconds") if ending else None
        epochs = folder.epochs()
        checked = folder.checked if ending else True
    except (PolyakError, OSError, ValueError) as error:
        return RunStatus(id=run_id, state="damaged", job=job, note=str(error))
    held, failure = holder(folder.path), folder.failure
    state: State = "interrupted"
    if ending is not None:
        state = ending
    elif held is not None and held.alive:
        state = "running"
    elif failure is not None:
        state = "failed"
    return RunStatus(
        id=run_id,
        state=state,
        job=job,
        epochs=epochs,
        holder=None if ending else held,
        checkpoint_age=_checkpoint_age(folder),
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        checked=checked,
        note=(failure or "").strip().rpartition("\n")[2] if state == "failed" else "",
    )


def _study(out: Path, path: Path) -> StudyStatus:
    try:
        study = read_study(path)
        registration = read_registration(path)
        names = list(dict.fromkeys(_ids(study)))
    except (FileError, TypeError, ValueError, AttributeError) as error:
        return StudyStatus(name=path.name, runs=(), fault=str(error))
    runs = {name: run_status(out, name) for name in names}
    return StudyStatus(
        name=path.name,
        title=study.title,
        runs=list(runs.values()),
        unplanned=sum(_unplanned(row, runs) for row in study.rows),
        workers=max(1, study.workers),
        claims=len(study.claims),
        registered=None if registration is None else registration.date,
        changes=() if registration is None else changes(registration, study),
    )


def _ids(study: StudyRecord) -> Iterator[str]:
    """Phase by phase, as they are carried out."""
    if study.measurement is not None:
        yield study.measurement.run
    for row in study.rows:
        for by_seed in row.search.values():
            yield from by_seed.values()
    for row in study.rows:
        yield from row.refit.values()
    for row in study.rows:
        for by_seed in row.follow_ups.values():
            yield from by_seed.values()
    for row in study.rows:
        yield from row.transfer.values()


def _unplanned(row: RowRecord, runs: Mapping[str, RunStatus]) -> int:
    """Refits, follow-ups and probes that are to come and have no settings yet."""
    if row.failure is not None or any(runs[i].state == "diverged" for i in row.refit.values()):
        # Nothing follows a search without a choice, and no probe a refit that is lost.
        return 0
    refits = len(row.seeds) if row.refits and not row.refit else 0
    named = sum(len(by_seed) for by_seed in row.follow_ups.values()) + len(row.transfer)
    return refits + max(0, row.following - named)


def _checkpoint_age(folder: RunFolder) -> float | None:
    times = []
    for path in folder.checkpoints.glob("at-*.safetensors"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            # It was replaced while this looked.
            continue
    return max(0.0, time.time() - max(times)) if times else None
