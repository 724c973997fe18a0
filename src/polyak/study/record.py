"""A study's record as it begins, before anything has been run."""

from collections.abc import Mapping

from polyak.records.studies import MeasurementRecord, RowRecord, StudyRecord
from polyak.study import plan
from polyak.study.plan import Measurement, Row, Study
from polyak.training.config import RunConfig


def new_record(study: Study, *, workers: int, command: str) -> StudyRecord:
    """The record of a study of which nothing has been run."""
    measured = study.measurement
    return StudyRecord(
        name=study.name,
        title=study.title,
        command=command,
        rows=tuple(_row(row) for row in study.rows),
        measurement=None if measured is None else _measurement(measured),
        workers=workers,
    )


def record_of(study: StudyRecord, row: Row) -> RowRecord:
    """The part of a record that is the row's."""
    return next(record for record in study.rows if record.label == row.label)


def ids_by_seed(runs: Mapping[int, RunConfig]) -> dict[str, str]:
    """Runs by seed as a record keeps them."""
    return {str(seed): run.id for seed, run in runs.items()}


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
        against=row.against,
        variants=row.variants,
        paper_averages=tuple(f"ema_{decay:g}" for decay in row.paper_decays),
        paper_code=row.paper_code,
        selection=row.config.selection,
        holdout_labels=row.config.holdout_labels,
        search={f"{rate:g}": ids_by_seed(by_seed) for rate, by_seed in plan.search(row).items()},
    )
