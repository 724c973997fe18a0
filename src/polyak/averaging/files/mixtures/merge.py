"""The mean of the weights in several files: a model soup, or checkpoints of one run."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from polyak.averaging.files.export import read_named
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.files.mixtures.same_network import OneNetwork
from polyak.averaging.files.mixtures.same_run import ORIGIN, origin, refuse_others
from polyak.averaging.kernels import averageable, is_statistic, refuse_negative_variances
from polyak.averaging.kinds.combination import checked_shares
from polyak.errors import ConfigError

NAME = "merged"
_ACROSS = "Runs that began at the same weights may be merged with --across-runs (across_runs=True)."


def merge(
    files: Sequence[Path],
    *,
    name: str | None = None,
    shares: Sequence[float] | None = None,
    across_runs: bool = False,
    extrapolate: bool = False,
    statistics: Literal["combine", "last"] = "combine",
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The mean of the weights in files, one file after another.

        m_k = m_{k−1} + a_k / (a_1 + … + a_k) · (x_k − m_{k−1}),   m_1 = x_1

    Sums are float32, or float64 for float64 weights; the mean has the first file's dtypes.
    In memory are the mean and one file, however many there are. Integer tensors are the last
    file's. BatchNorm statistics are means too: recompute them before use. Files with negative
    shares come last, so that no sum on the way is small. A tensor that holds infinity, such as an
    attention mask, is taken over where all files have the same values.

    Args:
        files: At least two that `read_foreign` reads, of one network.
        name: Which weights of each file; None where each holds just one.
        shares: a, one a file, finite and > 0, divided by their sum; None for equal ones.
        across_runs: Whether files may say that they are of different runs or seeds. The mean of
            runs that did not begin at the same weights is seldom a good network.
        extrapolate: Whether shares may be negative; then they must sum to one, and are taken as
            they are. (1 + λ, −λ) goes on by λ along the line from the second file to the first.
        statistics: "last" takes BatchNorm statistics from the last file, for which a negative
            share has no meaning: a variance may become negative.

    Returns:
        The state dict, and a manifest that says what it is the mean of.

    Raises:
        ConfigError: for fewer than two files, shares that do not fit, and those that make a
            variance negative.
        WeightMismatchError: if a file's tensors have other names or shapes than the first's, or
            are whole, real or complex numbers where the first's are not.
        NonFiniteError: if a file holds NaN, or infinity that not all files hold alike.
        StateError: for files of different runs or seeds, without `across_runs`.

    Source:
        Uniform soup of Wortsman et al. 2022, section 2; of one run's checkpoints, Izmailov et al.
        2018. The recurrence is that of `Uniform`. Extrapolation: Extra-Merge, 2026.
    """
    weights, last = _checked(files, shares, extrapolate=extrapolate), files[-1]
    # Partial sums of shares first rise, then fall to 1, so that none is near 0.
    ordered = sorted(range(len(files)), key=lambda k: (weights[k] < 0, weights[k] == 0))
    files, weights = [files[k] for k in ordered], [weights[k] for k in ordered]
    shares = None if shares is None else [shares[k] for k in ordered]
    _, first, about = read_named(files[0], name)
    origins = [origin(about)]
    network = OneNetwork(files[0], first)
    mean = {key: _wide(x) for key, x in first.items()}
    stored = {key: x.dtype for key, x in first.items()}
    taken = _taken(first, statistics)
    # Only the mean stays in memory while the next file is read.
    del first
    total = weights[0]
    for path, share in zip(files[1:], weights[1:], strict=True):
        total += share
        _, state, about = read_named(path, name)
        origins.append(origin(about))
        if not across_runs:
            refuse_others(files, origins, remedy=_ACROSS)
        network.check(path, state)
        _fold(mean, state, share / total, but=network.infinite)
        if path == last:
            taken = _taken(state, statistics)
        del state
    merged = {key: x.to(stored[key]) for key, x in {**mean, **taken}.items()}
    if min(weights) < 0:
        refuse_negative_variances(merged, remedy="Take the last file's, by statistics='last'")
    about = _about(merged, [os.path.basename(path) for path in files], shares)
    return merged, {**about, **_shared(origins)}


def _taken(state: dict[str, Tensor], statistics: str) -> dict[str, Tensor]:
    """What is that of the last file: what has no mean, and statistics if they are to be."""
    return {
        key: x
        for key, x in state.items()
        if not averageable(x) or (statistics == "last" and is_statistic(key))
    }


def _shared(origins: Sequence[Mapping[str, set[str | int]]]) -> dict[str, Any]:
    """The run and the seed of a mean, or a list of them."""
    found: dict[str, Any] = {}
    for key in ORIGIN:
        said = sorted(set[Any]().union(*(origin[key] for origin in origins)), key=str)
        if said:
            found[key] = said[0] if len(said) == 1 else said
    return found


def _fold(
    mean: dict[str, Tensor], state: dict[str, Tensor], weight: float, *, but: Collection[str]
) -> None:
    """m ← m + w·(x − m), in place."""
    for key, x in state.items():
        if averageable(x) and key not in but:
            mean[key] += (x.to(mean[key].dtype) - mean[key]) * weight


def _checked(
    files: Sequence[Path], shares: Sequence[float] | None, *, extrapolate: bool
) -> list[float]:
    if len(files) < 2:
        raise ConfigError(f"files has {len(files)}; expected at least two. Name more.")
    found = [1.0] * len(files) if shares is None else [float(share) for share in shares]
    if extrapolate and shares is not None and len(found) == len(files):
        return checked_shares("shares", found)
    if len(found) != len(files) or not all(0 < share < float("inf") for share in found):
        ahead = len(found) == len(files) and min(found) < 0
        raise ConfigError(
            f"shares is {found} for {len(files)} files; expected one finite number > 0 for each."
            f"{_AHEAD if ahead else ''}"
        )
    return found


_AHEAD = " Negative ones go beyond the files: ask for them with --extrapolate (extrapolate=True)."


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
