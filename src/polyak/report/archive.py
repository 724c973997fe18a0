"""What is kept of a study when its runs are thrown away: every number, no weights and no logits.

results.csv   the numbers of the page       curves.csv   every score of every epoch of every run
index.html    the page without a script, its figures in figures/, its claims in claims.json
plan.json, choices.json, configs/<id>.json   what was run and what was chosen
registration.json   what the study claimed before it ran, where it was registered
evaluations/<name>.csv   numbers on other test images, where `polyak evaluate` found some

Paths of this machine are shortened to names: what is kept is for others to read.
"""

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyak.analysis.loaded import LoadedRow, LoadedStudy, RunLog, load_study
from polyak.analysis.results import write_results_csv
from polyak.files import replacing, write_csv, write_json
from polyak.records.evaluations import evaluation_table, evaluation_tables
from polyak.records.registration import write_registration
from polyak.records.runs import Score
from polyak.records.studies import RowRecord, StudyRecord, write_study
from polyak.records.vocabulary import BASELINE
from polyak.report.page import write_page

CURVE_COLUMNS = (
    "run",
    "row",
    "phase",
    "learning_rate",
    "seed",
    "epoch",
    "part",
    "weights",
    "accuracy",
    "loss",
)
_PATH = re.compile(r"(?<![\w./])~?/(?:[^\s/'\":;,]+/)+([^\s/'\":;,]+)")
"""An absolute path in a text, and its name."""


def write_archive(out: Path, name: str, folder: Path, *, study: LoadedStudy | None = None) -> None:
    """Write what is worth keeping of a study, small enough for a repository.

    Args:
        out: The output folder that holds `runs/` and the study's folder.
        name: Of the study.
        folder: Where to; made if it is not there, files of those names are replaced.
        study: That of this name, where it has been loaded.

    Raises:
        FileError: if there is no such study or a file of a finished run is damaged.
    """
    study = _shareable(study or load_study(out, name))
    write_page(study, folder, interactive=False)
    write_results_csv(folder / "results.csv", study.results)
    write_csv(folder / "curves.csv", CURVE_COLUMNS, _curves(study))
    for table in evaluation_tables(out / name):
        with replacing(evaluation_table(folder, table.stem)) as temporary:
            shutil.copyfile(table, temporary)
    write_study(folder, study.record)
    if study.registration is not None:
        write_registration(folder, study.registration)
    for run in (run for row in study.rows for run in row.runs.values()):
        if run.config is not None:
            write_json(folder / "configs" / f"{run.id}.json", _without_paths(run.config))


def _shareable(study: LoadedStudy) -> LoadedStudy:
    """Without paths in what to type and in why a row has no result."""
    rows = tuple(replace(row, record=_without_path(row.record)) for row in study.rows)
    record = replace(
        study.record,
        command=_command(study.record.command),
        source=_source(study.record),
        rows=tuple(row.record for row in rows),
    )
    return replace(study, record=record, rows=rows)


def _without_path(row: RowRecord) -> RowRecord:
    return row if row.failure is None else replace(row, failure=_PATH.sub(r"\1", row.failure))


def _source(record: StudyRecord) -> str | None:
    """What defines the study: its file's name, or the preset's data without their folders."""
    if record.source is None:
        return None
    return Path(record.source).name if record.preset is None else _PATH.sub(r"\1", record.source)


def _command(text: str) -> str:
    """What to type, each word's path shortened to its name, also after NAME=."""
    words = []
    for word in shlex.split(text):
        name, sign, value = word.partition("=")
        words.append(f"{name}={_name(value)}" if sign and not _is_path(name) else _name(word))
    return shlex.join(words)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_without_paths(x) for x in value]
    return _name(value) if isinstance(value, str) else value


def _name(text: str) -> str:
    return Path(text).name if _is_path(text) else text


def _is_path(text: str) -> bool:
    return text.startswith("~/") or Path(text).is_absolute()


def _curves(study: LoadedStudy) -> Iterator[tuple[object, ...]]:
    for row in study.rows:
        for log, *known in _runs(row):
            for epoch, part, weights, score in _scores(log):
                yield (*known, epoch, part, weights, score.accuracy, score.loss)


def _runs(row: LoadedRow) -> Iterator[tuple[RunLog, str, str, str, str, str]]:
    """Log of each run, with its id, row, phase, learning rate and seed."""
    for rate, by_seed in row.searched().items():
        for seed, run in by_seed.items():
            yield run.log, run.id, row.label, "search", rate, seed
    for phase in row.phases[1:]:
        for seed, run in row.of(phase).items():
            yield run.log, run.id, row.label, phase, f"{row.record.learning_rate_of(seed):g}", seed


def _scores(log: RunLog) -> Iterator[tuple[int, str, str, Score]]:
    for record in log.epochs:
        yield record.epoch, "train", BASELINE, record.train
        yield from _each(record.epoch, "holdout", record.holdout)
        yield from _each(record.epoch, "holdout_bn", record.holdout_bn)
    for monitored in log.monitors:
        yield from _each(monitored.epoch, monitored.monitor, monitored.scores)


def _each(
    epoch: int, part: str, scores: Mapping[str, Score]
) -> Iterator[tuple[int, str, str, Score]]:
    return ((epoch, part, weights, score) for weights, score in scores.items())
