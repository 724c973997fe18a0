"""Runs what a study still lacks. Here alone choices flow back into configurations."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from polyak.errors import DataError, FileError
from polyak.records.locks import holding
from polyak.records.runs import EpochRecord, run_folder
from polyak.records.studies import (
    MeasurementRecord,
    RowRecord,
    StopRecord,
    StudyRecord,
    read_study,
    with_row,
    write_study,
)
from polyak.study import plan
from polyak.study.executors import Executor
from polyak.study.follow_ups import follow_ups, stops_of
from polyak.study.plan import FollowUp, Measurement, Row, Study
from polyak.study.preparation import prepare_measurement, prepare_rows
from polyak.training.config import RULES, RunConfig
from polyak.training.jobs import Job
from polyak.training.selection import choose_learning_rate, choose_stop, swad_interval


@dataclass(frozen=True, slots=True)
class Progress:
    """What a phase is doing at this moment."""

    phase: str
    states: Mapping[str, str]
    """Run id → waiting, running, done, failed."""

    jobs: Mapping[str, Job]
    """By id."""


@dataclass(slots=True)
class Outcome:
    """What became of a study's runs."""

    done: int = 0
    skipped: int = 0
    diverged: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Run id → text of the error."""

    row_failures: dict[str, str] = field(default_factory=dict)
    """Label of a row without a result → why."""

    seconds: float = 0.0


OnProgress = Callable[[Progress], None]


def run_study(
    study: Study,
    out: Path,
    *,
    executor: Executor,
    on_progress: OnProgress,
    workers: int,
    command: str,
) -> Outcome:
    """Bring `out/<study>/` up to date: search, select, refit, follow-ups, transfer.

    Runs that are there already, from this or another study, are used as they are. It can be
    stopped at any time and called again.

    Args:
        study: What to run.
        out: The output folder, shared between studies.
        executor: Carries out the runs of a phase.
        on_progress: Told of progress.
        workers: For the record.
        command: For the record: what the user typed.

    Raises:
        ConfigError, DataError: before anything is run, if the study cannot be.
        HeldError: if another process is at work on this study.
    """
    study.check()
    rows = prepare_rows(study.rows)
    measurement = study.measurement and prepare_measurement(study.measurement)
    # What the data decides, such as fitted decays, can be at fault too.
    replace(study, rows=tuple(rows), measurement=measurement).check()
    folder = out / study.name
    study = replace(study, rows=tuple(rows), measurement=measurement)
    folder.mkdir(parents=True, exist_ok=True)
    with holding(folder):
        record = _begin(study, workers=workers, command=command)
        return _run_phases(study, record, out, executor, on_progress)


def _run_phases(
    study: Study,
    record: StudyRecord,
    out: Path,
    executor: Executor,
    on_progress: OnProgress,
) -> Outcome:
    """For the one who holds the study's folder."""
    rows, measurement = study.rows, study.measurement
    folder = out / record.name
    started, before = time.monotonic(), _seconds_before(folder)
    outcome = Outcome()

    def save() -> None:
        outcome.seconds = time.monotonic() - started
        write_study(folder, replace(record, seconds=before + outcome.seconds))

    def phase(name: str, jobs: Sequence[Job]) -> None:
        save()
        _run_missing(name, jobs, out, executor, on_progress, outcome)

    try:
        if measurement is not None:
            phase("measure", [measurement.config])
        searches = {row.label: plan.search(row) for row in rows}
        phase("search", [r for s in searches.values() for by in s.values() for r in by.values()])
        refits: dict[str, dict[int, RunConfig]] = {}
        following: list[RunConfig] = []
        for row in rows:
            chosen = _select(row, _row_record(record, row), searches[row.label], out)
            if chosen.failure is None:
                by_name = follow_ups(row, chosen)
                following += [run for runs in by_name.values() for run in runs.values()]
                chosen = replace(chosen, follow_ups=_ids(by_name))
            if chosen.failure is None and row.refits:
                refits[row.label] = _refits(row, chosen, searches[row.label], out)
                ids = {str(seed): run.id for seed, run in refits[row.label].items()}
                chosen = replace(chosen, refit=ids)
            elif chosen.failure is not None:
                outcome.row_failures[row.label] = chosen.failure
            record = with_row(record, chosen)
        phase("refit", [run for runs in refits.values() for run in runs.values()])
        phase("follow-up", following)
        probes = {
            row.label: plan.transfer(row, tuple(refits[row.label].values()))
            for row in rows
            if row.label in refits and _all_done(refits[row.label].values(), out)
        }
        for row in rows:
            ids = {name: probe.id for name, probe in probes.get(row.label, {}).items()}
            record = with_row(record, replace(_row_record(record, row), transfer=ids))
        phase("transfer", [probe for by in probes.values() for probe in by.values()])
    finally:
        # Also for a study that is stopped: what it knows, and the time that it took.
        save()
    return outcome


def planned(study: Study) -> int:
    """Runs of a study: search, refits, follow-ups and probes, or its measurement."""
    of_rows = sum(
        (len(row.learning_rates) + row.refits + len(row.follow_ups)) * len(row.seeds)
        + len(row.transfer)
        for row in study.rows
    )
    return of_rows + (study.measurement is not None)


def _seconds_before(folder: Path) -> float:
    """What earlier sittings took; 0 if there was none, or nothing that can be read."""
    try:
        return read_study(folder).seconds
    except FileError:
        return 0.0


def _begin(study: Study, *, workers: int, command: str) -> StudyRecord:
    measured = study.measurement
    return StudyRecord(
        name=study.name,
        title=study.title,
        command=command,
        rows=tuple(_new_row(row) for row in study.rows),
        measurement=None if measured is None else _new_measurement(measured),
        workers=workers,
    )


def _new_measurement(measured: Measurement) -> MeasurementRecord:
    return MeasurementRecord(
        label=measured.label,
        dataset=measured.dataset,
        architecture=measured.architecture,
        run=measured.config.id,
    )


def _new_row(row: Row) -> RowRecord:
    return RowRecord(
        label=row.label,
        dataset=row.dataset,
        architecture=row.architecture,
        seeds=row.seeds,
        learning_rates=row.learning_rates,
        averages=row.config.averaging.names,
        refits=row.refits,
        against=row.against,
        variants=row.variants,
        paper_averages=tuple(f"ema_{decay:g}" for decay in row.paper_decays),
        paper_code=row.paper_code,
        selection=row.config.selection,
        holdout_labels=row.config.holdout_labels,
        search={
            f"{rate:g}": {str(seed): run.id for seed, run in by_seed.items()}
            for rate, by_seed in plan.search(row).items()
        },
    )


def _row_record(study: StudyRecord, row: Row) -> RowRecord:
    return next(record for record in study.rows if record.label == row.label)


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
    outcome.skipped += len(by_id) - len(missing)

    def tick(states: Mapping[str, str]) -> None:
        on_progress(Progress(name, states, by_id))

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


def _select(
    row: Row, record: RowRecord, runs: dict[float, dict[int, RunConfig]], out: Path
) -> RowRecord:
    """Choose the learning rate, for all seeds or for each, and each seed's stops."""
    epochs = {
        rate: {seed: _epochs(run, out) for seed, run in by_seed.items()}
        for rate, by_seed in runs.items()
    }
    try:
        rates = _rates(row, epochs)
    except DataError as error:
        return replace(record, failure=str(error))
    stops = {
        str(seed): _stop_records(row.config, epochs[rate][seed] or ())
        for seed, rate in rates.items()
    }
    if "learning-rate" in row.paper_code:
        by_seed = {str(seed): rate for seed, rate in rates.items()}
        return replace(record, seed_learning_rates=by_seed, stops=stops)
    return replace(record, chosen_learning_rate=next(iter(rates.values())), stops=stops)


def _rates(
    row: Row, epochs: Mapping[float, Mapping[int, list[EpochRecord] | None]]
) -> dict[int, float]:
    """The learning rate of each seed."""
    if "learning-rate" not in row.paper_code:
        return dict.fromkeys(row.seeds, choose_learning_rate(epochs))
    return {
        seed: choose_learning_rate({rate: {seed: by[seed]} for rate, by in epochs.items()})
        for seed in row.seeds
    }


def _stop_records(config: RunConfig, records: Sequence[EpochRecord]) -> tuple[StopRecord, ...]:
    stops = (
        choose_stop(
            records,
            rule=rule,
            averages=config.averaging.names,
            selection=config.selection,
            paper_code=config.paper_code,
        )
        for rule in RULES
    )
    return tuple(StopRecord(rule=s.rule, epoch=s.epoch, average=s.average) for s in stops)


def _epochs(run: RunConfig, out: Path) -> list[EpochRecord] | None:
    folder = run_folder(out, run.id)
    return folder.epochs() if folder.ending == "done" else None


def _refits(
    row: Row, record: RowRecord, runs: dict[float, dict[int, RunConfig]], out: Path
) -> dict[int, RunConfig]:
    found: dict[int, RunConfig] = {}
    for seed, chosen in stops_of(record).items():
        rate = record.rate_of(str(seed))
        assert rate is not None
        swad = None
        if "swad" in row.config.more_averages:
            swad = {seed: swad_interval(_epochs(runs[rate][seed], out) or ())}
        found |= plan.refit(row, rate, {seed: chosen}, swad=swad)
    return found


def _ids(by_name: Mapping[FollowUp, Mapping[int, RunConfig]]) -> dict[str, dict[str, str]]:
    return {
        name: {str(seed): run.id for seed, run in runs.items()} for name, runs in by_name.items()
    }


def _all_done(runs: Iterable[RunConfig], out: Path) -> bool:
    return all(run_folder(out, run.id).ending == "done" for run in runs)
