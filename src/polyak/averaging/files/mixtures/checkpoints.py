"""Averages made of checkpoints with raw weights, at any steps, of whatever tool."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from polyak.averaging.files.export import read_named
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.files.mixtures.same_network import OneNetwork
from polyak.averaging.files.mixtures.same_run import origin, refuse_others
from polyak.averaging.kernels import averageable, refuse_negative_variances
from polyak.averaging.kinds import Average
from polyak.averaging.kinds.profiles.profile import profile
from polyak.averaging.kinds.records import to_record
from polyak.averaging.nearest import nearest_snapshots, refuse_far
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import ConfigError, StateError, warn
from polyak.numbers import is_whole

MOST_UPDATES = 10_000_000
"""Updates of a run whose shares are written out."""


def synthesize_from_checkpoints(
    files: Sequence[Path],
    kind: Average,
    *,
    at: Sequence[int],
    steps: int | None,
    rates: Sequence[float] | None,
    every: int,
    largest_error: float,
) -> SavedWeights:
    """`synthesize` of checkpoints with raw weights; arguments as there."""
    moments = moments_of(files, at, every)
    steps = moments[-1] if steps is None else steps
    if not is_whole(steps, least=1) or steps > moments[-1]:
        raise ConfigError(
            f"steps is {steps!r}; expected 1 to {moments[-1]}, that of the latest file. Nothing "
            "is stored of what came after."
        )
    updates = steps // every
    mixture = nearest_snapshots(
        profile(kind, updates=updates, every=every), [m // every for m in moments], rates=rates
    )
    refuse_far(kind, mixture.error, largest_error, steps=steps)
    warn_of_doubt(kind, steps)
    ordered = [path for _, path in sorted(zip(at, files, strict=True), key=lambda pair: pair[0])]
    shares = list(zip(moments, ordered, mixture.shares, strict=True))
    # Those after the moment come first, so that the latest before it has the last word.
    shares.sort(key=lambda part: (part[0] <= steps, part[0]))
    used = [(path, "", share) for moment, path, share in shares if share or moment <= steps]
    steps_of = {os.fspath(path): m for path, m in zip(ordered, moments, strict=True)}
    state = weighted_sum(used, read=_reader(steps_of))
    if min(mixture.shares) < 0:
        refuse_negative_variances(state, remedy="Choose another moment")
    about = {
        "tool": "polyak",
        "weights": {kind.label: "averaged"},
        "averages": {kind.label: to_record(kind)},
        "buffers": "average",
        "refreshed_batchnorm": [],
        "every": every,
        "steps": steps,
        "updates": updates,
        "skipped": 0,
        "dtypes": {kind.label: dtypes(state)},
        "synthesis": {
            "error": mixture.error,
            "of": [[os.path.basename(path), f"step {when}", c] for when, path, c in shares],
        },
    }
    return SavedWeights({kind.label: state}, manifest=about)


def warn_of_doubt(kind: Average, steps: int) -> None:
    """Say aloud where an average does not stand for what it says."""
    if doubt := kind.doubt(steps):
        warn(f"{doubt}.")


def weighted_sum(
    parts: Iterable[tuple[Path, str, float]], *, read: Callable[[Path], Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Σ c_k·m_k in float64, a file at a time; what has no mean is that of the last part.

    Args:
        parts: File, name in it, share.
        read: A file's state dicts by name.
    """
    network: OneNetwork | None = None
    total: dict[str, Tensor] = {}
    latest: dict[str, Tensor] = {}
    for path, held in groupby(parts, key=lambda part: part[0]):
        file = read(path)
        for _, name, share in held:
            latest = file[name]
            network = network or OneNetwork(path, latest)
            network.check(path, latest)
            for key, x in latest.items():
                if averageable(x) and key not in network.infinite:
                    wide = x.to(torch.promote_types(x.dtype, torch.float64))
                    total[key] = total.get(key, 0) + share * wide
    # Tied weights are one tensor, under each of their names.
    made = {id(latest[key]): x.to(latest[key].dtype) for key, x in total.items()}
    return {key: made.get(id(x), x) for key, x in latest.items()}


def moments_of(files: Sequence[Path], at: Sequence[int], every: int) -> list[int]:
    """The steps of checkpoints in order, checked."""
    if not is_whole(every, least=1):
        raise ConfigError(f"every is {every!r}; expected optimizer steps, a whole number >= 1.")
    wrong = [x for x in at if not is_whole(x, least=1) or x % every]
    if len(at) != len(files) or not files or wrong or len(set(at)) < len(at):
        raise ConfigError(
            f"at is {list(at)!r} for {len(files)} files; expected the optimizer step of each, "
            f"whole numbers >= 1, none twice, multiples of every ({every})."
        )
    moments = sorted(at)
    if moments[-1] // every > MOST_UPDATES:
        raise ConfigError(
            f"at reaches to step {moments[-1]}; expected at most {MOST_UPDATES * every} with every "
            f"{every}. Pass a larger every, by which all of them can be divided."
        )
    return moments


def _reader(steps: Mapping[str, int]) -> Callable[[Path], dict[str, dict[str, Tensor]]]:
    """What reads a checkpoint as weights without a name, and compares what it says of itself."""
    read: list[Path] = []
    origins: list[dict[str, set[str | int]]] = []

    def raw(path: Path) -> dict[str, dict[str, Tensor]]:
        name, state, about = read_named(path, None)
        natures = about.get("weights")
        nature = natures.get(name) if isinstance(natures, Mapping) else None
        if name in (about.get("averages") or {}) or str(nature).startswith("averaged"):
            raise StateError(
                f"{os.fspath(path)} holds an average, {name!r}; expected raw weights. Files of "
                "polyak.save(averager, path) are read without at."
            )
        said = about.get("steps")
        if type(said) is int and said != steps[os.fspath(path)]:
            raise StateError(
                f"{os.fspath(path)} says that it is of step {said}; expected "
                f"{steps[os.fspath(path)]}, as at says. Give the steps in the order of the files."
            )
        read.append(path)
        origins.append(origin(about))
        refuse_others(read, origins)
        return {"": state}

    return raw
