"""Averages that lie in files, with the shares of past weights in each."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import Any

import torch

from polyak.averaging.files.averager_state import banks_in
from polyak.averaging.files.averages import load
from polyak.averaging.files.file_format import Path, file_format
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.files.on_disk.distributed import DistributedFolder, is_distributed
from polyak.averaging.files.on_disk.pickles import read_pickled
from polyak.averaging.files.on_disk.sources import SafetensorsFile, StandIns
from polyak.averaging.files.on_disk.weights import OnDisk
from polyak.averaging.kinds import Average
from polyak.averaging.kinds.profiles.profile import shares_in
from polyak.averaging.kinds.records import from_record, is_whole
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import FileError, StateError, few, one_line, quote

STRIDE = 1e-3
"""By what share of itself a weight is taken to change from one update to the next, where rounding
is weighed against it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An average in a file."""

    path: Path
    name: str
    manifest: Mapping[str, Any]
    profile: tuple[float, ...]
    kind: Average
    digest: str = ""
    """Of its tensors' checksums, where the file has some: equal for equal weights."""

    @property
    def updates(self) -> int:
        """Updates before it was saved."""
        return len(self.profile) - 1

    @property
    def regular(self) -> bool:
        """Whether updates took place at every period's end, and only then."""
        return _regular(self.manifest)

    @property
    def rounding(self) -> float:
        """What a stored number is off by, in units of what an update changes."""
        found = [name for name in self.manifest["dtypes"][self.name].split(", ") if name]
        halves = [torch.finfo(getattr(torch, name)).eps / 2 for name in found]
        # Narrower ones are frozen weights beside the averages.
        return min(halves, default=0.0) / STRIDE


def averages_in(path: Path) -> list[Stored]:
    """The averages in a file, from what it says of itself.

    Of a file of `polyak.save` and of a folder no tensor is read.

    Args:
        path: A file of `polyak.save(averager, path)`; or a checkpoint in which an averager's
            state lies, a file of torch or a folder of torch.distributed.checkpoint.

    Raises:
        FileError: for any other file.
        StateError: for recomputed BatchNorm statistics, or updates at unknown steps.
    """
    where = os.fspath(path)
    manifest, digests = _manifest(path)
    if not {"averages", *_COUNTS} <= manifest.keys():
        raise FileError(
            f"{where} does not say what its averages are made of; expected a file of "
            "polyak.save(averager, path). `polyak inspect` says what it is."
        )
    if "synthesis" in manifest:
        raise FileError(f"{where} is synthesised itself; expected averages that were kept.")
    fresh = manifest["refreshed_batchnorm"]
    if fresh:
        raise StateError(
            f"{where} has recomputed BatchNorm statistics in {quote(fresh)}; expected averaged "
            "ones, of which there are mixtures. Call drop_refreshed() before saving."
        )
    if faulty := [key for key, least in _COUNTS.items() if not _is_count(manifest[key], least)]:
        said = ", ".join(f"{key} {manifest[key]!r:.40}" for key in faulty)
        raise FileError(f"{where} says {said}; expected counts. Leave the file out.")
    kinds = {
        name: _kind(where, name, record)
        for name, record in manifest["averages"].items()
        if is_whole(record)  # of others no file holds the code
    }
    return [
        Stored(
            path,
            name,
            manifest,
            _profile(where, name, kind, manifest),
            kind,
            digests.get(name, ""),
        )
        for name, kind in kinds.items()
    ]


_COUNTS = {"every": 1, "steps": 0, "updates": 0, "skipped": 0}
"""What a file says of its bank, and the least that it can be."""


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _kind(where: str, name: str, record: Mapping[str, Any]) -> Average:
    try:
        return from_record(record)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FileError(
            f"{where} says of {name!r} what is no average ({one_line(error)}); expected what "
            "polyak wrote. Leave the file out."
        ) from error


def read_averages(path: Path) -> SavedWeights:
    """The weights of `averages_in`, in memory."""
    known = _bank_in(path)
    return load(path) if known is None else known.load()


def _manifest(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a file says of its averages, and a digest of each; nothing if it is none of ours."""
    if (known := _bank_in(path)) is not None:
        found = known.weights
        own = {name: dtypes(state) for name, state in found.items()}
        return {**found.manifest, "dtypes": own}, {}
    record = SafetensorsFile(path).record if file_format(path) == "safetensors" else None
    if record is None:
        return {}, {}
    sums = record["sha256"]
    digests = {
        name: repr(sorted((key, sums.get(full)) for key, full in keys.items()))
        for name, keys in record["weights"].items()
    }
    return record["manifest"], digests


def _bank_in(path: Path) -> OnDisk | None:
    """The one averager whose state lies in a checkpoint; None for a file of another kind.

    Raises:
        FileError: for a checkpoint without, or with several.
    """
    made, folder = StandIns(), Folder(path)
    if folder.is_dir() and not is_distributed(folder):
        raise FileError(
            f"{os.fspath(path)} is a folder without averages; expected files of "
            "polyak.save(averager, path), or a folder of torch.distributed.checkpoint. Name the "
            "files; of the folder of a run polyak.runs.board(run) and `polyak board RUN` take what "
            "it kept."
        )
    if is_distributed(folder):
        content: object = DistributedFolder(folder).content(made)
    elif file_format(path) in ("zip", "pickle"):
        content = read_pickled(path)[0]
    else:
        return None
    found = dict(banks_in(content))
    if not (found or folder.is_dir()):
        return None
    if len(found) != 1:
        said = f"holds the states of {few(list(found))}" if found else "holds no averager's state"
        raise FileError(
            f"{os.fspath(path)} {said}; expected that of one. Save each averager's by itself, by "
            "polyak.save(averager, path) or, in shards, torch.distributed.checkpoint."
        )
    [bank] = found.values()
    return OnDisk(bank, made)


def _profile(
    where: str, name: str, kind: Average, manifest: Mapping[str, Any]
) -> tuple[float, ...]:
    every, updates = manifest["every"], manifest["updates"]
    if kind.depends_on_steps and not _regular(manifest):
        raise StateError(
            f"{where} has {updates} updates in {manifest['steps']} steps, {manifest['skipped']} "
            f"skipped; expected one every {every} steps, since the weights in {kind.label!r} "
            "depend on when they took place. Leave the file out."
        )
    begun = manifest.get("begun", {}).get(name, 0)
    return shares_in(kind, updates=updates, every=every, begun=begun)


def _regular(manifest: Mapping[str, Any]) -> bool:
    on_time: bool = manifest["steps"] // manifest["every"] == manifest["updates"]
    return on_time and not manifest["skipped"]
