"""The mean of the weights in several files: a model soup, or checkpoints of one run."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyak.averaging.files.export import read_named
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.files.same_network import OneNetwork
from polyak.averaging.kernels import averageable
from polyak.errors import ConfigError, StateError, few, printable

NAME = "merged"
_ORIGIN = ("run", "seed")
"""What manifests say of where weights come from; training's own files always do."""


def merge(
    files: Sequence[Path],
    *,
    name: str | None = None,
    shares: Sequence[float] | None = None,
    across_runs: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The mean of the weights in files, one file after another.

        m_k = m_{k−1} + a_k / (a_1 + … + a_k) · (x_k − m_{k−1}),   m_1 = x_1

    Sums are float32, or float64 for float64 weights; the mean has the first file's dtypes.
    In memory are the mean and one file, however many there are. Integer tensors are the last
    file's. BatchNorm statistics are means too: recompute them before use. A tensor that holds
    infinity, such as an attention mask, is taken over where all files have the same values.

    Args:
        files: At least two that `read_foreign` reads, of one network.
        name: Which weights of each file; None where each holds just one.
        shares: a, one a file, finite and > 0; None for equal ones.
        across_runs: Whether files may say that they are of different runs or seeds. The mean of
            runs that did not begin at the same weights is seldom a good network.

    Returns:
        The state dict, and a manifest that says what it is the mean of.

    Raises:
        ConfigError: for fewer than two files, or shares that do not fit.
        WeightMismatchError: if a file's tensors have other names or shapes than the first's, or
            are whole, real or complex numbers where the first's are not.
        NonFiniteError: if a file holds NaN, or infinity that not all files hold alike.
        StateError: for files of different runs or seeds, without `across_runs`.

    Source:
        Uniform soup of Wortsman et al. 2022, section 2; of one run's checkpoints, Izmailov et al.
        2018. The recurrence is that of `Uniform`.
    """
    weights = _checked(files, shares)
    _, first, about = read_named(files[0], name)
    origins = [_origin(about)]
    network = OneNetwork(files[0], first)
    mean = {key: _wide(x) for key, x in first.items()}
    stored = {key: x.dtype for key, x in first.items()}
    # Only the mean stays in memory while the next file is read.
    del first
    total = weights[0]
    for path, share in zip(files[1:], weights[1:], strict=True):
        total += share
        _, state, about = read_named(path, name)
        origins.append(_origin(about))
        if not across_runs:
            _refuse_others(files, origins)
        network.check(path, state)
        _fold(mean, state, share / total, but=network.infinite)
        del state
    merged = {key: x.to(stored[key]) for key, x in mean.items()}
    about = _about(merged, [os.path.basename(path) for path in files], shares)
    return merged, {**about, **_shared(origins)}


def _origin(manifest: Mapping[str, Any]) -> dict[str, set[str | int]]:
    """The runs and the seeds that a file says it is of."""
    found: dict[str, set[str | int]] = {}
    for key in _ORIGIN:
        said = manifest.get(key)
        every = said if isinstance(said, list) else [said]
        found[key] = {x for x in every if isinstance(x, str | int)}
    return found


def _refuse_others(files: Sequence[Path], origins: Sequence[Mapping[str, set[str | int]]]) -> None:
    """Refuse the last file if it is of another run or seed than one before it."""
    last = origins[-1]
    for key in _ORIGIN:
        for path, origin in zip(files, origins[:-1], strict=False):
            if last[key] and origin[key] and last[key] != origin[key]:
                raise StateError(
                    f"{os.fspath(files[len(origins) - 1])} is of {key} {_words(last[key])}, "
                    f"{os.fspath(path)} of {key} {_words(origin[key])}; expected files of one run. "
                    "Runs that began at the same weights may be merged with --across-runs "
                    "(across_runs=True)."
                )


def _words(values: Collection[str | int]) -> str:
    return few([printable(str(value)) for value in values])


def _shared(origins: Sequence[Mapping[str, set[str | int]]]) -> dict[str, Any]:
    """The run and the seed of a mean, or a list of them."""
    found: dict[str, Any] = {}
    for key in _ORIGIN:
        said = sorted(set[Any]().union(*(origin[key] for origin in origins)), key=str)
        if said:
            found[key] = said[0] if len(said) == 1 else said
    return found


def _fold(
    mean: dict[str, Tensor], state: dict[str, Tensor], weight: float, *, but: Collection[str]
) -> None:
    """m ← m + w·(x − m), in place."""
    for key, x in state.items():
        if not averageable(x):
            mean[key] = x
        elif key not in but:
            mean[key] += (x.to(mean[key].dtype) - mean[key]) * weight


def _checked(files: Sequence[Path], shares: Sequence[float] | None) -> list[float]:
    if len(files) < 2:
        raise ConfigError(f"files has {len(files)}; expected at least two. Name more.")
    found = [1.0] * len(files) if shares is None else [float(share) for share in shares]
    if len(found) != len(files) or not all(0 < share < float("inf") for share in found):
        raise ConfigError(
            f"shares is {found} for {len(files)} files; expected one finite number > 0 for each."
        )
    return found


def _wide(x: Tensor) -> Tensor:
    """A tensor of its own in the dtype that sums are kept in."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True) if averageable(x) else x


def _about(
    merged: dict[str, Tensor], files: list[str], shares: Sequence[float] | None
) -> dict[str, Any]:
    record: dict[str, Any] = {"kind": "mean", "of": files}
    if shares is not None:
        record["shares"] = list(shares)
    return {
        "tool": "polyak",
        "name": NAME,
        "weights": {NAME: "averaged"},
        "averages": {NAME: record},
        "buffers": "average",
        "refreshed_batchnorm": [],
        "dtypes": {NAME: dtypes(merged)},
    }
