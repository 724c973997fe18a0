"""Averages that lie in files, with the shares of past weights in each."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from polyak.averaging.files.file_format import Path, file_format
from polyak.averaging.files.on_disk.sources import SafetensorsFile
from polyak.averaging.kinds import Average
from polyak.averaging.kinds.profiles.profile import shares_in
from polyak.averaging.kinds.records import from_record, is_whole
from polyak.errors import FileError, StateError, quote

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
    record = SafetensorsFile(path).record if file_format(path) == "safetensors" else None
    manifest = {} if record is None else record["manifest"]
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
            f"{where} has recomputed BatchNorm statistics in {quote(fresh)}; expected averaged "
            "ones, of which there are mixtures. Call drop_refreshed() before saving."
        )
    kinds = {
        name: from_record(record)
        for name, record in manifest["averages"].items()
        if is_whole(record)  # of others no file holds the code
    }
    return [
        Stored(path, name, manifest, _profile(where, name, kind, manifest), kind)
        for name, kind in kinds.items()
    ]


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
