"""The data of a study, decoded before anything runs; all that is missing in one message."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from polyak.data import DataConfig, load, partition, prepare
from polyak.data.decoding import OnDecoded
from polyak.errors import DataError, FileError
from polyak.models import pinned, pinned_whole
from polyak.records.runs import run_folder
from polyak.study import plan
from polyak.study.fitting import fit_decays
from polyak.study.plan import Measurement, Row
from polyak.threads import on_one_thread
from polyak.training.faster_precision import settled
from polyak.training.jobs import doubts

Prepared = dict[DataConfig, DataConfig]
Hint = Callable[[DataConfig], str]
"""What to type where data is missing; added to the message."""


def no_hint(_config: DataConfig) -> str:
    """Nothing to add."""
    return ""


def prepare_rows(
    rows: Sequence[Row], *, hint: Hint = no_hint, on_decoded: OnDecoded | None = None
) -> list[Row]:
    """The rows with their data in the cache, fingerprints filled in, fitted to what is there.

    Raises:
        DataError: that names every source and file that is not available, with what to type.
    """
    ready, missing = _prepare_all(
        (config for row in rows for config in _configs(row)), hint, on_decoded
    )
    if missing:
        raise DataError("\n".join(missing))
    return [_prepared(row, ready) for row in rows]


def as_begun(row: Row, out: Path) -> Row:
    """The row whose runs an earlier version has begun, if there are any; else the row.

    That named runs of a user's network by the checksum of its whole file.
    """
    before = replace(row, config=replace(row.config, model=pinned_whole(row.config.model)))
    runs = (run for by_seed in plan.search(before).values() for run in by_seed.values())
    return before if any(run_folder(out, run.id).path.exists() for run in runs) else row


def settle_precision(
    rows: Sequence[Row], out: Path, *, device: torch.device, say: Callable[[str], None]
) -> list[Row]:
    """The rows with a precision in the place of `auto`, tried on one thread as runs have."""
    found = []
    for row in rows:
        if row.config.precision != "auto":
            found.append(row)
            continue
        [first, *_] = (run for runs in plan.search(row).values() for run in runs.values())
        data = partition(load(first.data), first.data, holdout=True)
        with on_one_thread():
            choice = settled(first, data, out, device=device)
        say(f"{row.label}: {choice.reason}")
        found.append(replace(row, config=replace(row.config, precision=choice.config.precision)))
    return found


def try_networks(rows: Sequence[Row], out: Path, *, device: torch.device) -> list[str]:
    """Try the network of every row of which nothing was run, before anything is.

    Returns:
        What is strange but may be meant.

    Raises:
        ConfigError: if one cannot be trained or does not fit to its data, in training or transfer.
    """
    found: list[str] = []
    for row in rows:
        searched = [run for by_seed in plan.search(row).values() for run in by_seed.values()]
        if all(run_folder(out, run.id).path.exists() for run in searched):
            continue
        data = partition(load(row.config.data), row.config.data, holdout=True)
        targets = [partition(load(target), target, holdout=False) for target in row.transfer]
        found += doubts(searched[0], data, device, targets=targets)
    return list(dict.fromkeys(found))


def prepare_measurement(
    measurement: Measurement, *, hint: Hint = no_hint, on_decoded: OnDecoded | None = None
) -> Measurement:
    """The measurement with its data in the cache.

    Raises:
        DataError: if that is not available, with what to type.
    """
    config = measurement.config
    ready, missing = _prepare_all([config.run.data], hint, on_decoded)
    if missing:
        raise DataError("\n".join(missing))
    run = replace(config.run, data=_limited(ready[config.run.data]))
    return replace(measurement, config=replace(config, run=run))


def prepare_some(rows: Sequence[Row], *, hint: Hint = no_hint) -> tuple[dict[str, Row], list[str]]:
    """The rows whose data is to be had, by label, and what is missing for the others."""
    ready, missing = _prepare_all((config for row in rows for config in _configs(row)), hint, None)
    whole = [row for row in rows if all(config in ready for config in _configs(row))]
    return {row.label: _prepared(row, ready) for row in whole}, missing


def _configs(row: Row) -> tuple[DataConfig, ...]:
    return (row.config.data, *row.transfer)


def _prepare_all(
    configs: Iterable[DataConfig], hint: Hint, on_decoded: OnDecoded | None
) -> tuple[Prepared, list[str]]:
    """Prepared configurations, and a message for each that cannot be."""
    ready: Prepared = {}
    failed: dict[DataConfig, str] = {}
    for config in configs:
        # Images first and once: a hub that cannot be reached is slow to say so.
        source, limits = config.images_only(), config.limits
        images = replace(source, train_limit=limits.train, test_limit=limits.test)
        for key, wanted in ((source, images), (config, config)):
            if source in failed or wanted in ready or key in failed:
                continue
            try:
                ready[wanted] = prepare(wanted, on_decoded=on_decoded)
            except (DataError, FileError) as error:
                failed[key] = f"{error}{hint(wanted)}"
    return ready, list(dict.fromkeys(failed.values()))


def _prepared(row: Row, ready: Prepared) -> Row:
    data = _limited(ready[row.config.data])
    targets = tuple(_limited(ready[target]) for target in row.transfer)
    config = replace(row.config, data=data, model=pinned(row.config.model))
    row = replace(row, config=config, transfer=targets)
    return fit_decays(row, train_images=len(load(data).train))


def _limited(data: DataConfig) -> DataConfig:
    """The data with limits above what is there meaning all of it."""
    content = load(data)
    return replace(
        data,
        train_limit=_limit(data.train_limit, len(content.train)),
        test_limit=_limit(data.test_limit, len(content.test)),
    )


def _limit(limit: int | None, available: int) -> int | None:
    return None if limit is None or limit >= available else limit
