"""The mean of the weights in several files: a model soup, or checkpoints of one run."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from polyak.averaging.files.export import open_named
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.files.mixtures.same_network import OneNetwork
from polyak.averaging.files.mixtures.same_run import ORIGIN, origin, refuse_others
from polyak.averaging.files.on_disk.weights import OnDisk
from polyak.averaging.kernels import TILE, averageable, is_statistic, refuse_negative_variances
from polyak.averaging.kinds.combination import checked_shares
from polyak.errors import ConfigError, unknown

NAME = "merged"
_ACROSS = "Runs that began at the same weights may be merged with --across-runs (across_runs=True)."

Opened = tuple[OnDisk, dict[str, Tensor]]
"""Weights on the disk, and which of them are meant."""

_PART = 4
"""Small tensors are read several at a time, since a file is opened for each time; what is freed of
them may stay with the process."""


def merge(
    files: Sequence[Path],
    *,
    name: str | None = None,
    shares: Sequence[float] | None = None,
    across_runs: bool = False,
    extrapolate: bool = False,
    statistics: Literal["combine", "last"] = "combine",
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The mean of the weights in files, tensor by tensor.

        m_k = m_{k−1} + a_k / (a_1 + … + a_k) · (x_k − m_{k−1}),   m_1 = x_1

    Sums are float32, or float64 for float64 weights; the mean has the first file's dtypes.
    In memory are the mean and one tensor of one file, however many there are; of pickled files, one
    file. Integer tensors are the last file's. BatchNorm statistics are means too: recompute them
    before use. Files with negative shares come last, so that no sum on the way is small. A tensor
    that holds infinity, such as an attention mask, is taken over where all files have the same
    values.

    Args:
        files: At least two that `read_foreign` reads, of one network; folders too.
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
    mean = Mean(
        files,
        name=name,
        shares=shares,
        across_runs=across_runs,
        extrapolate=extrapolate,
        statistics=statistics,
    )
    return dict(mean.read()), mean.about


class Mean:
    """The mean of files, of which nothing is in memory before it is asked for.

    Args, errors: as `merge`, which gives all of it.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        name: str | None = None,
        shares: Sequence[float] | None = None,
        across_runs: bool = False,
        extrapolate: bool = False,
        statistics: Literal["combine", "last"] = "combine",
    ) -> None:
        if statistics not in ("combine", "last"):
            raise ConfigError(unknown("statistics", statistics, ("combine", "last")))
        weights, self._last = _checked(files, shares, extrapolate=extrapolate), files[-1]
        # Partial sums of shares first rise, then fall to 1, so that none is near 0.
        ordered = sorted(range(len(files)), key=lambda k: (weights[k] < 0, weights[k] == 0))
        self._files, self._shares = [files[k] for k in ordered], [weights[k] for k in ordered]
        self._name, self._statistics = name, statistics
        self._open: dict[Path, Opened] = {}
        self.layout: dict[str, Tensor] = {}
        """Tensors of its dtypes and shapes, by name, in no memory."""
        origins: list[dict[str, set[str | int]]] = []
        for path in self._files:
            origins.append(origin(self._look(path)))
            if not across_runs:
                refuse_others(self._files, origins, remedy=_ACROSS)
        self._in_pieces = len(self._open) == len(set(files))
        said = None if shares is None else [shares[k] for k in ordered]
        record = _about(self.layout, [os.path.basename(path) for path in self._files], said)
        self.about = {**record, **_shared(origins)}
        """What it is the mean of, for a manifest."""

    def read(self, keys: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Its tensors in the first file's dtypes, of some keys or of all.

        Raises:
            FileError, NonFiniteError, WeightMismatchError: as `merge`.
        """
        for batch in self._batches(self.layout if keys is None else keys):
            mean = self._mean(batch)
            if min(self._shares) < 0:
                remedy = "Take the last file's, by statistics='last'"
                refuse_negative_variances(mean, remedy=remedy)
            for key in batch:
                yield key, mean.pop(key).to(self.layout[key].dtype)

    def _look(self, path: Path) -> Mapping[str, Any]:
        """What a file says of itself, once it is known to be of the network."""
        disk, state, about = open_named(path, self._name)
        if not self.layout:
            self._network = OneNetwork(path, state)
            self.layout = {key: _in_no_memory(x) for key, x in state.items()}
        self._network.check_layout(path, state)
        if not disk.is_whole:
            self._open[path] = disk, state
        return about

    def _batches(self, keys: Collection[str]) -> Iterator[list[str]]:
        """Keys of one large tensor or of some small ones; of pickled files, all."""
        sizes = {key: _wide_bytes(x) for key, x in self.layout.items()}
        largest = max(sizes.values(), default=0)
        most = largest // _PART if self._in_pieces else sum(sizes.values())
        batch: list[str] = []
        size = 0
        for key in keys:
            if batch and size + sizes[key] > most:
                yield batch
                batch, size = [], 0
            batch.append(key)
            size += sizes[key]
        if batch:
            yield batch

    def _mean(self, keys: Sequence[str]) -> dict[str, Tensor]:
        mean: dict[str, Tensor] = {}
        total = 0.0
        for path, share in zip(self._files, self._shares, strict=True):
            total += share
            self._take(path, mean, keys, weight=share / total)
        return mean

    def _take(
        self, path: Path, mean: dict[str, Tensor], keys: Sequence[str], *, weight: float
    ) -> None:
        disk, state = self._opened(path)
        for key, x in disk.read({key: state[key] for key in keys}):
            self._network.check_values(path, {key: x})
            if not averageable(x) or (self._statistics == "last" and is_statistic(key)):
                if path == self._last:
                    mean[key] = x.clone()
            elif key not in mean:
                mean[key] = _wide(x)
            elif key not in self._network.infinite:
                _fold(mean[key], x, weight)

    def _opened(self, path: Path) -> Opened:
        if path in self._open:
            return self._open[path]
        disk, state, _ = open_named(path, self._name)
        self._network.check_layout(path, state)
        return disk, state


def _shared(origins: Sequence[Mapping[str, set[str | int]]]) -> dict[str, Any]:
    """The run and the seed of a mean, or a list of them."""
    found: dict[str, Any] = {}
    for key in ORIGIN:
        said = sorted(set[Any]().union(*(origin[key] for origin in origins)), key=str)
        if said:
            found[key] = said[0] if len(said) == 1 else said
    return found


def _fold(mean: Tensor, x: Tensor, weight: float) -> None:
    """m ← m + w·(x − m), in place and in pieces."""
    flat = (mean.view(-1), x.reshape(-1))
    for m, piece in zip(*(torch.split(values, TILE) for values in flat), strict=True):
        m += (piece.to(m.dtype) - m) * weight


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
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True).contiguous()


def _in_no_memory(x: Tensor) -> Tensor:
    """A tensor of the same dtype and shape."""
    return x.new_empty(()).expand(x.shape)


def _wide_bytes(x: Tensor) -> int:
    dtype = torch.promote_types(x.dtype, torch.float32) if averageable(x) else x.dtype
    return x.numel() * dtype.itemsize


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
