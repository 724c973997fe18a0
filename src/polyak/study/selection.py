"""What finished searches decide: each row's learning rate, its stops, and so its refits.

Here and in `follow_ups` alone choices flow back into configurations.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from polyak.errors import DataError, FileError
from polyak.records.runs import EpochRecord, RunFolder, run_folder
from polyak.records.studies import RowRecord
from polyak.records.vocabulary import RULES, RUN_AGAIN, Stop
from polyak.study import plan
from polyak.study.follow_ups import stops_of
from polyak.study.plan import Row
from polyak.training.config import RunConfig
from polyak.training.selection import Lost, choose_learning_rate, choose_stop, swad_interval


def choose(
    row: Row, record: RowRecord, runs: Mapping[float, Mapping[int, RunConfig]], out: Path
) -> RowRecord:
    """Choose the learning rate, for all seeds or for each, and each seed's stops."""
    epochs = {
        learning_rate: {seed: _epochs(run, out) for seed, run in by_seed.items()}
        for learning_rate, by_seed in runs.items()
    }
    try:
        learning_rates = _learning_rates(row, epochs)
    except DataError as error:
        return replace(record, failure=str(error))
    stops = {
        str(seed): _stops(row.config, _whole(runs[learning_rate][seed], out))
        for seed, learning_rate in learning_rates.items()
    }
    if "learning-rate" in row.paper_code:
        by_seed = {str(seed): learning_rate for seed, learning_rate in learning_rates.items()}
        return replace(record, seed_learning_rates=by_seed, stops=stops)
    return replace(record, chosen_learning_rate=next(iter(learning_rates.values())), stops=stops)


def check_whole(runs: Iterable[RunConfig], out: Path) -> None:
    """See to it that all runs that are done can be chosen from.

    Raises:
        FileError: for a run that is done and has not a record of each epoch.
    """
    for run in runs:
        _epochs(run, out)


def refits(
    row: Row, record: RowRecord, runs: Mapping[float, Mapping[int, RunConfig]], out: Path
) -> dict[int, RunConfig]:
    """The runs on all data that repeat a row's choice, by seed."""
    found: dict[int, RunConfig] = {}
    for seed, chosen in stops_of(record).items():
        learning_rate = record.learning_rate_of(str(seed))
        assert learning_rate is not None
        swad = None
        if "swad" in row.config.more_averages:
            swad = {seed: swad_interval(_whole(runs[learning_rate][seed], out))}
        found |= plan.refit(row, learning_rate, {seed: chosen}, swad=swad)
    return found


def _learning_rates(
    row: Row, epochs: Mapping[float, Mapping[int, Sequence[EpochRecord] | Lost]]
) -> dict[int, float]:
    """The learning rate of each seed."""
    if "learning-rate" not in row.paper_code:
        return dict.fromkeys(row.seeds, choose_learning_rate(epochs))
    return {
        seed: choose_learning_rate(
            {learning_rate: {seed: by[seed]} for learning_rate, by in epochs.items()}
        )
        for seed in row.seeds
    }


def _stops(config: RunConfig, records: Sequence[EpochRecord]) -> tuple[Stop, ...]:
    return tuple(
        choose_stop(
            records,
            rule=rule,
            averages=config.averaging.names,
            selection=config.selection,
            paper_code=config.paper_code,
        )
        for rule in RULES
    )


def _epochs(run: RunConfig, out: Path) -> Sequence[EpochRecord] | Lost:
    ending = run_folder(out, run.id).ending
    if ending == "done":
        return _whole(run, out)
    return "diverged" if ending == "diverged" else "failed"


def _whole(run: RunConfig, out: Path) -> list[EpochRecord]:
    """The records of a run that is done: all of its epochs, or a choice would be another."""
    folder = run_folder(out, run.id)
    found = folder.epochs()
    if [record.epoch for record in found] != list(range(1, run.epochs + 1)):
        raise FileError(_incomplete(folder, len(found), run.epochs))
    return found


def _incomplete(folder: RunFolder, found: int, epochs: int) -> str:
    has = f"has {found} records" if folder.log.exists() else "is missing"
    return (
        f"{folder.log} {has}, though the run is done; expected a record of each of its "
        f"{epochs} epochs. {RUN_AGAIN}"
    )
