"""A study's record: as it begins, and what a row lacks when all phases are over."""

import os
import shlex
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path

from polyak.data.config import name_of
from polyak.errors import ConfigError, FileError
from polyak.records.runs import run_folder
from polyak.records.studies import MeasurementRecord, RowRecord, StudyRecord, read_study
from polyak.study import plan
from polyak.study.plan import Measurement, Row, Study
from polyak.training.config import RunConfig


def new_record(study: Study, out: Path, *, workers: int, command: str) -> StudyRecord:
    """The record of a study of which nothing has been run, in this output folder."""
    measured = study.measurement
    return StudyRecord(
        name=study.name,
        title=study.title,
        command=command,
        preset=study.preset,
        scale=study.scale,
        source=study.source and _seen_from(out, study.source),
        rows=tuple(_row(row) for row in study.rows),
        measurement=None if measured is None else _measurement(measured),
        claims=study.claims,
        workers=workers,
    )


def refuse_another(folder: Path, study: StudyRecord) -> None:
    """Raise a ConfigError if a study's folder holds one that was defined elsewhere.

    The same runs are the same study, wherever its file lies now.
    """
    try:
        there = read_study(folder)
    except FileError:
        return
    ours, theirs = _source(study), _source(there)
    if there.source is None and ours.endswith(".py"):
        # Earlier versions recorded the command alone, whose folder nobody knows.
        ours, theirs = Path(ours).name, Path(theirs).name
    if ours == theirs or _searches(there) == _searches(study):
        return
    raise ConfigError(
        f"study {study.name!r} of {ours or 'that name'} would replace the one of "
        f"{theirs or 'that name'} in {folder}, which has other runs; expected a name for each. "
        f"Change its name, give another --out, or remove {folder}: its runs stay."
    )


def _source(study: StudyRecord) -> str:
    """What defines a study: its file, data in the paper's places, or nothing but its name."""
    if study.source is not None:
        return study.source
    words = shlex.split(study.command)
    data = [pair for flag, pair in pairwise(words) if flag == "--data"]
    return next((word for word in words[2:3] if word.endswith(".py")), " ".join(sorted(data)))


def _searches(study: StudyRecord) -> list[object]:
    measured = study.measurement and study.measurement.run
    return [measured, *(row.search for row in study.rows)]


def _seen_from(out: Path, source: str) -> str:
    """Where a study's file lies, so that it can be moved along with the results."""
    if not source.endswith(".py"):
        return source
    try:
        return Path(os.path.relpath(source, out)).as_posix()
    except ValueError:
        # On another drive.
        return source


def record_of(study: StudyRecord, row: Row) -> RowRecord:
    """The part of a record that is the row's."""
    return next(record for record in study.rows if record.label == row.label)


def ids_by_seed(runs: Mapping[int, RunConfig]) -> dict[str, str]:
    """Runs by seed as a record keeps them."""
    return {str(seed): run.id for seed, run in runs.items()}


def missing_results(record: RowRecord, out: Path, *, targets: Collection[str]) -> str | None:
    """Why a row's result is missing or incomplete; None if it is complete.

    Runs of the search that diverged are part of a search, and follow-ups that did, of what they
    show: neither is missed here.

    Args:
        record: The row after the last phase.
        out: The output folder.
        targets: Names of the data sets that its refits were to be probed on.
    """
    refits = _lost(record.refit, out)
    probes = _lost({name: record.transfer.get(name) for name in targets}, out)
    found = []
    if refits:
        found.append(f"the refit of {_listed('seed', refits)}")
    if probes:
        how = dict.fromkeys(probes, "not run") if refits else probes
        found.append(f"the linear probe on {_listed('', how)}")
    if not found:
        return None
    diverged = "diverged" in refits.values()
    advice = "Search smaller learning rates." if diverged else "Give the same command again."
    return f"{' and '.join(found)}; expected all to end. {advice}"


def _measurement(measured: Measurement) -> MeasurementRecord:
    return MeasurementRecord(
        label=measured.label,
        dataset=measured.dataset,
        architecture=measured.architecture,
        run=measured.config.id,
    )


def _row(row: Row) -> RowRecord:
    return RowRecord(
        label=row.label,
        dataset=row.dataset,
        architecture=row.architecture,
        seeds=row.seeds,
        learning_rates=row.learning_rates,
        averages=row.config.averaging.names,
        refits=row.refits,
        following=len(row.follow_ups) * len(row.seeds) + len(row.transfer),
        wanted=(*row.follow_ups, *(name_of(target.source) for target in row.transfer)),
        against=row.against,
        variants=row.variants,
        paper_averages=tuple(f"ema_{decay:g}" for decay in row.paper_decays),
        paper_code=row.paper_code,
        selection=row.config.selection,
        holdout_labels=row.config.holdout_labels,
        search={
            f"{learning_rate:g}": ids_by_seed(by_seed)
            for learning_rate, by_seed in plan.search(row).items()
        },
    )


def _lost(runs: Mapping[str, str | None], out: Path) -> dict[str, str]:
    """What became of the runs that are not done, by seed or name."""
    endings = {
        name: run_folder(out, run_id).ending if run_id else None for name, run_id in runs.items()
    }
    return {name: ending or "not done" for name, ending in endings.items() if ending != "done"}


def _listed(kind: str, lost: Mapping[str, str]) -> str:
    return ", ".join(f"{kind} {name} is {how}".strip() for name, how in lost.items())
