"""Averages in files of one run, and the exact weights in each."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from polyak.averaging.files.manifest import RECORD, parsed_record
from polyak.averaging.files.safetensors_file import Path, file_format, quoted, read_metadata
from polyak.averaging.kinds import EMA, Average, from_record
from polyak.averaging.kinds.profile import profile
from polyak.errors import FileError, StateError

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
    """The averages in a file, from what it says of itself; no tensor is read.

    Raises:
        FileError: for a file that `polyak.save` did not write of an averager.
        StateError: for recomputed BatchNorm statistics, or updates at unknown steps.
    """
    where = os.fspath(path)
    metadata = read_metadata(path) if file_format(path) == "safetensors" else {}
    manifest = parsed_record(path, metadata)["manifest"] if RECORD in metadata else {}
    if not {"averages", "every", "steps", "updates", "skipped"} <= manifest.keys():
        raise FileError(
            f"{where} does not say what its averages are made of; expected a file of "
            "polyak.save(averager, path). `polyak inspect` says what it is."
        )
    if "synthesis" in manifest:
        raise FileError(f"{where} is synthesised itself; expected averages that were kept.")
    fresh = manifest["refreshed_batchnorm"]
    if fresh:
        raise StateError(
            f"{where} has recomputed BatchNorm statistics in {quoted(fresh)}; expected averaged "
            "ones, of which there are mixtures. Call drop_refreshed() before saving."
        )
    return [
        Stored(path, name, manifest, _profile(where, from_record(record), manifest))
        for name, record in manifest["averages"].items()
        if record["kind"] != "schedule"  # whose function no file holds
    ]


def by_steps(kind: Average) -> bool:
    """Whether its weights depend on the steps at which updates took place, not on their number."""
    return not isinstance(kind, EMA) or (kind.warmup is not None and kind.warmup_counts == "steps")


def _profile(where: str, kind: Average, manifest: Mapping[str, Any]) -> tuple[float, ...]:
    every, updates = manifest["every"], manifest["updates"]
    if by_steps(kind) and not _regular(manifest):
        raise StateError(
            f"{where} has {updates} updates in {manifest['steps']} steps, {manifest['skipped']} "
            f"skipped; expected one every {every} steps, since the weights in {kind.label!r} "
            "depend on when they took place. Leave the file out."
        )
    return profile(kind, updates=updates, every=every)


def _regular(manifest: Mapping[str, Any]) -> bool:
    on_time: bool = manifest["steps"] // manifest["every"] == manifest["updates"]
    return on_time and not manifest["skipped"]
