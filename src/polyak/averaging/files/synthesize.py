"""Deciding on the average afterwards: one that nobody kept, from the files of those that were."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from polyak import tensor_files
from polyak.averaging.files.averages import SavedWeights, load
from polyak.averaging.files.file_format import Path, file_format
from polyak.averaging.files.manifest import RECORD, dtypes, parse_record
from polyak.averaging.files.mixture import nearest_mixture
from polyak.averaging.files.same_network import OneNetwork
from polyak.averaging.kernels import averageable
from polyak.averaging.kinds import Average, as_average
from polyak.averaging.kinds.profile import profile, shares_in
from polyak.averaging.kinds.records import from_record, is_whole, to_record
from polyak.errors import ConfigError, FileError, StateError, quote

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


def synthesize(
    files: Sequence[Path],
    average: float | Average,
    *,
    steps: int | None = None,
    rates: Sequence[float] | None = None,
    largest_error: float = 0.05,
) -> SavedWeights:
    """An average that was not kept, from files of one run in which others were.

    It is the mixture of stored averages that comes nearest, after `nearest_mixture`: exact where
    the stored ones allow it, else with the error that is to be expected. Five EMAs saved forty
    times in a run give most others within a thousandth at a file's moment, and slow ones within a
    hundredth between two. BatchNorm statistics are mixtures too: recompute them before use.

    Args:
        files: Of `polyak.save(averager, path)`, from any moments of one run.
        average: Which one; a plain number is an EMA's decay, per update.
        steps: The moment, in optimizer steps; None for that of the latest file.
        rates: Learning rate of every update in turn, for a better mixture; None for equal ones.
        largest_error: Largest expected error that is tolerated, as in `Mixture`, ≥ 0.

    Returns:
        The weights under the average's name. `.manifest["synthesis"]` has the mixture: `error`, and
        `of`, a list of file, name and share. Tensors have the dtypes of the latest file before the
        moment, whole numbers its values; sums are float64, with one file in memory at a time.

    Raises:
        ConfigError: for settings outside their range, or if the expected error is too large.
        FileError: for files that `polyak.save` did not write of an averager.
        StateError: for recomputed BatchNorm statistics, or updates at unknown steps.
        WeightMismatchError: for files of another network or with another period.
        NonFiniteError: as in `merge`.

    Source:
        Karras et al. 2024 (EDM2), section 3.2, for power-function averages.
    """
    kind = as_average(average)
    stored = [s for path in files for s in averages_in(path)]
    every = _period(stored)
    regular = all(s.regular for s in stored)
    if kind.depends_on_steps and not regular:
        raise StateError(
            f"updates were skipped or made by hand, and the weights in {kind.label!r} depend on "
            "when they took place; expected an EMA without warm-up, or with one by updates."
        )
    steps, updates = _moment(stored, steps, every, regular=regular)
    mixture = nearest_mixture(
        profile(kind, updates=updates, every=every),
        [s.profile for s in stored],
        rates=rates,
        rounding=max(s.rounding for s in stored),
    )
    if not mixture.error <= largest_error:
        raise ConfigError(
            f"the expected error of {kind.label!r} at step {steps} is {mixture.error:.2g} "
            f"of what it averages away; expected at most {largest_error:g}. Choose the moment of a "
            "file or a longer average, save more often or with more decays, or allow the error."
        )
    parts = list(zip(stored, mixture.shares, strict=True))
    state = _sum(parts, updates)
    about = {
        "averages": {kind.label: to_record(kind)},
        "every": every,
        "steps": steps,
        "updates": updates,
        "dtypes": {kind.label: dtypes(state)},
        "synthesis": {
            "error": mixture.error,
            "of": [[os.path.basename(s.path), s.name, share] for s, share in parts],
        },
    }
    return SavedWeights({kind.label: state}, manifest={**stored[-1].manifest, **about})


def _period(stored: Sequence[Stored]) -> int:
    if not stored:
        raise ConfigError("files hold no averages; expected at least one. Name more files.")
    found = {s.manifest["every"] for s in stored}
    if len(found) > 1:
        raise ConfigError(
            f"the files' averages were updated every {', '.join(map(str, sorted(found)))} steps; "
            "expected one period. Take the files of one averager."
        )
    every: int = found.pop()
    return every


def _moment(
    stored: Sequence[Stored], steps: int | None, every: int, *, regular: bool
) -> tuple[int, int]:
    """Optimizer steps, and the updates that had taken place after them."""
    known = {s.manifest["steps"]: s.updates for s in stored}
    last = max(known)
    if steps is None:
        return last, known[last]
    if steps in known:
        return steps, known[steps]
    if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps <= last:
        raise ConfigError(
            f"steps is {steps!r}; expected 0 to {last}, the latest file's. Nothing is stored of "
            "what came after."
        )
    if not regular:
        raise StateError(
            f"steps is {steps}, at which there is no file, and updates were skipped or made by "
            f"hand; expected one of {', '.join(map(str, sorted(known)))}."
        )
    return steps, steps // every


def _sum(parts: Sequence[tuple[Stored, float]], updates: int) -> dict[str, Tensor]:
    """Σ c_k·m_k, a file at a time; what has no mean is that of the latest file so far."""
    # Those after the moment come first, so that the latest before it has the last word.
    ordered = sorted(
        parts, key=lambda p: (p[0].updates <= updates, p[0].updates, os.fspath(p[0].path))
    )
    network: OneNetwork | None = None
    total: dict[str, Tensor] = {}
    latest: dict[str, Tensor] = {}
    for path, held in groupby(ordered, key=lambda part: part[0].path):
        file = load(path)
        for average, share in held:
            latest = file[average.name]
            network = network or OneNetwork(path, latest)
            network.check(path, latest)
            for key, x in latest.items():
                if averageable(x) and key not in network.infinite:
                    wide = x.to(torch.promote_types(x.dtype, torch.float64))
                    total[key] = total.get(key, 0) + share * wide
    # Tied weights are one tensor, under each of their names.
    made = {id(latest[key]): x.to(latest[key].dtype) for key, x in total.items()}
    return {key: made.get(id(x), x) for key, x in latest.items()}


def averages_in(path: Path) -> list[Stored]:
    """The averages in a file, from what it says of itself; no tensor is read.

    Raises:
        FileError: for a file that `polyak.save` did not write of an averager.
        StateError: for recomputed BatchNorm statistics, or updates at unknown steps.
    """
    where = os.fspath(path)
    metadata = tensor_files.read_metadata(path) if file_format(path) == "safetensors" else {}
    manifest = parse_record(path, metadata)["manifest"] if RECORD in metadata else {}
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
    return [
        Stored(path, name, manifest, _profile(where, name, from_record(record), manifest))
        for name, record in manifest["averages"].items()
        if is_whole(record)  # of others no file holds the code
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
