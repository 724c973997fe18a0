"""Runs what a study still lacks, phase after phase."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from polyak.data.config import name_of
from polyak.data.decoding import OnDecoded
from polyak.errors import FileError, warn
from polyak.records.locks import holding
from polyak.records.runs import refuse_links, run_folder
from polyak.records.studies import RowRecord, StudyRecord, read_study, with_row, write_study
from polyak.study import plan, selection
from polyak.study.executors import Executor
from polyak.study.follow_ups import follow_ups
from polyak.study.plan import Row, Study
from polyak.study.preparation import (
    Hint,
    as_begun,
    no_hint,
    prepare_measurement,
    prepare_rows,
    settle_precision,
    try_networks,
)
from polyak.study.record import ids_by_seed, missing_results, new_record, record_of, refuse_another
from polyak.training.config import Job, ProbeConfig, RunConfig


@dataclass(frozen=True, slots=True)
class Progress:
    """What a phase is doing at this moment."""

    phase: str
    states: Mapping[str, str]
    """Run id → waiting, running, done, failed."""

    jobs: Mapping[str, Job]
    """By id."""

    before: int = 0
    """Runs of the study that ended earlier, in other phases or other calls."""


@dataclass(slots=True)
class Outcome:
    """What became of a study's runs."""

    done: int = 0
    skipped: int = 0
    diverged: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Run id → text of the error."""

    row_failures: dict[str, str] = field(default_factory=dict)
    """Label of a row without a result, or without the whole of it → why."""

    seconds: float = 0.0


OnProgress = Callable[[Progress], None]
Searches = Mapping[float, Mapping[int, RunConfig]]
"""Runs of one row by learning rate and seed."""


def run_study(
    study: Study,
    out: Path,
    *,
    executor: Executor,
    on_progress: OnProgress,
    workers: int,
    command: str,
    hint: Hint = no_hint,
    on_decoded: OnDecoded | None = None,
    on_choice: Callable[[str], None] = warn,
    trial_device: str | None = "cpu",
) -> Outcome:
    """Bring `out/<study>/` up to date: search, select, refit, follow-ups, transfer.

    Runs that are there already, from this or another study, are used as they are. It can be
    interrupted at any time and called again.

    Args:
        study: What to run.
        out: The output folder, shared between studies.
        executor: Carries out the runs of a phase.
        on_progress: Told of progress.
        workers: For the record.
        command: For the record: what the user typed.
        hint: What to type where data is missing.
        on_decoded: Told how many images are decoded, where data is not in the cache yet.
        on_choice: Told which precision was chosen for a row that asks for `auto`, and why.
        trial_device: Where networks of a user's are tried before anything is run. None: only
            where the runs are carried out.

    Raises:
        ConfigError, DataError: before anything is run, if the study cannot be, or its folder is
            another study's.
        FileError: before anything is run, if a run that is done has lost records to choose from.
        HeldError: if another process is at work on this study.
    """
    study, record = ready_study(
        study,
        out,
        workers=workers,
        command=command,
        hint=hint,
        on_decoded=on_decoded,
        on_choice=on_choice,
        trial_device=trial_device,
    )
    if trial_device is not None:
        for doubt in try_networks(study.rows, out, device=torch.device(trial_device)):
            warn(doubt)
    folder = out / study.name
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    with holding(folder):
        session = _Session(
            study=study, record=record, out=out, executor=executor, on_progress=on_progress
        )
        return session.run()


def ready_study(
    study: Study,
    out: Path,
    *,
    workers: int,
    command: str,
    hint: Hint = no_hint,
    on_decoded: OnDecoded | None = None,
    on_choice: Callable[[str], None] = warn,
    trial_device: str | None = "cpu",
) -> tuple[Study, StudyRecord]:
    """A study whose runs have their ids, since its data is at hand, and its record before them.

    Arguments and errors are those of `run_study`, which begins so.
    """
    study.check()
    prepared = prepare_rows(study.rows, hint=hint, on_decoded=on_decoded)
    if trial_device is not None:
        device = torch.device(trial_device)
        prepared = settle_precision(prepared, out, device=device, say=on_choice)
    rows = [as_begun(row, out) for row in prepared]
    measurement = study.measurement and prepare_measurement(
        study.measurement, hint=hint, on_decoded=on_decoded
    )
    # What the data decides, such as fitted decays, can be at fault too.
    study = replace(study, rows=tuple(rows), measurement=measurement).settled()
    record = new_record(study, out, workers=workers, command=command)
    refuse_another(out / study.name, record)
    return study, record


@dataclass(slots=True, kw_only=True)
class _Session:
    """One call's work on a study, for the one who holds its folder."""

    study: Study
    record: StudyRecord
    out: Path
    executor: Executor
    on_progress: OnProgress
    outcome: Outcome = field(default_factory=Outcome)
    before: float = 0.0
    """Seconds that earlier calls took."""

    started: float = field(default_factory=time.monotonic)

    def run(self) -> Outcome:
        """Phase after phase, each planned from what those before it found."""
        self.before = _seconds_before(self.out / self.study.name)
        searches = {row.label: plan.search(row) for row in self.study.rows}
        searched = [run for by_rate in searches.values() for run in _each(by_rate)]
        # Before the first write: earlier choices outlive a run that was damaged since.
        selection.check_whole(searched, self.out)
        try:
            if self.study.measurement is not None:
                self._phase("measure", [self.study.measurement.config])
            self._phase("search", searched)
            refits, following = self._choose(searches)
            self._phase("refit", list(_each(refits)))
            self._phase("follow-up", following)
            self._phase("transfer", self._probes(refits))
            self._note_missing()
        finally:
            # Also for a study that is interrupted: what it knows, and the time that it took.
            self._save()
        return self.outcome

    def _choose(
        self, searches: Mapping[str, Searches]
    ) -> tuple[dict[str, dict[int, RunConfig]], list[RunConfig]]:
        """The refits by row, and what else follows the choice."""
        refits: dict[str, dict[int, RunConfig]] = {}
        following: list[RunConfig] = []
        for row in self.study.rows:
            chosen = selection.choose(row, self._of(row), searches[row.label], self.out)
            if chosen.failure is None:
                by_name = follow_ups(row, chosen)
                following += _each(by_name)
                named = {str(name): ids_by_seed(runs) for name, runs in by_name.items()}
                chosen = replace(chosen, follow_ups=named)
                if row.refits:
                    runs = selection.refits(row, chosen, searches[row.label], self.out)
                    refits[row.label] = runs
                    chosen = replace(chosen, refit=ids_by_seed(runs))
            else:
                self.outcome.row_failures[row.label] = chosen.failure
            self.record = with_row(self.record, chosen)
        return refits, following

    def _probes(self, refits: Mapping[str, Mapping[int, RunConfig]]) -> list[ProbeConfig]:
        """The transfers of every row whose refits are all done."""
        found: list[ProbeConfig] = []
        for row in self.study.rows:
            runs = tuple(refits.get(row.label, {}).values())
            ready = runs and all(run_folder(self.out, run.id).ending == "done" for run in runs)
            probes = plan.transfer(row, runs) if ready else {}
            found += probes.values()
            ids = {name: probe.id for name, probe in probes.items()}
            self.record = with_row(self.record, replace(self._of(row), transfer=ids))
        return found

    def _note_missing(self) -> None:
        for row in self.study.rows:
            targets = [name_of(target.source) for target in row.transfer]
            reason = missing_results(self._of(row), self.out, targets=targets)
            # A row whose search failed is known to have nothing.
            if reason is not None and row.label not in self.outcome.row_failures:
                self.outcome.row_failures[row.label] = reason

    def _of(self, row: Row) -> RowRecord:
        return record_of(self.record, row)

    def _phase(self, name: str, jobs: Sequence[Job]) -> None:
        self._save()
        _run_missing(name, jobs, self.out, self.executor, self.on_progress, self.outcome)

    def _save(self) -> None:
        self.outcome.seconds = time.monotonic() - self.started
        seconds = self.before + self.outcome.seconds
        write_study(self.out / self.record.name, replace(self.record, seconds=seconds))


def _seconds_before(folder: Path) -> float:
    """What earlier sessions took; 0 if there was none, or nothing that can be read."""
    try:
        return read_study(folder).seconds
    except FileError:
        return 0.0


def _run_missing(
    name: str,
    jobs: Sequence[Job],
    out: Path,
    executor: Executor,
    on_progress: OnProgress,
    outcome: Outcome,
) -> None:
    by_id = {job.id: job for job in jobs}
    missing = [job for job in by_id.values() if run_folder(out, job.id).ending is None]
    for run_id in by_id.keys() - {job.id for job in missing}:
        run_folder(out, run_id).sweep()
    outcome.skipped += len(by_id) - len(missing)
    before = outcome.done + outcome.skipped + outcome.diverged + len(outcome.failures)

    def tick(states: Mapping[str, str]) -> None:
        on_progress(Progress(name, states, by_id, before))

    failures = executor(missing, out, tick)
    for run_id, text in failures.items():
        _note_failure(by_id[run_id], out, text)
    endings = [run_folder(out, job.id).ending for job in missing]
    outcome.failures |= failures
    outcome.done += endings.count("done")
    outcome.diverged += endings.count("diverged")


def _note_failure(job: Job, out: Path, text: str) -> None:
    """Leave in a run's folder what went wrong and what to repeat."""
    folder = run_folder(out, job.id)
    # A disk that takes no more is the usual reason to be here; the text is shown anyway.
    with suppress(OSError):
        folder.write_config(job.record())
        folder.fail(text)


def _each(groups: Mapping[Any, Mapping[int, RunConfig]]) -> Iterator[RunConfig]:
    """The runs of all groups, by their order."""
    return (run for runs in groups.values() for run in runs.values())
