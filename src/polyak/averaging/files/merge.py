"""The mean of the weights in several files: a model soup, or checkpoints of one run."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyak.averaging.files.export import open_named
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.files.on_disk.weights import OnDisk
from polyak.averaging.files.same_network import OneNetwork
from polyak.averaging.kernels import TILE, averageable
from polyak.errors import ConfigError, StateError, few, printable

NAME = "merged"
_ORIGIN = ("run", "seed")
"""What manifests say of where weights come from; training's own files always do."""

_PART = 4
"""Small tensors are read several at a time, since a file is opened for each time; what is freed of
them may stay with the process."""

Opened = tuple[OnDisk, dict[str, Tensor]]
"""Weights on the disk, and which of them are meant."""


def merge(
    files: Sequence[Path],
    *,
    name: str | None = None,
    shares: Sequence[float] | None = None,
    across_runs: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The mean of the weights in files, tensor by tensor.

        m_k = m_{k−1} + a_k / (a_1 + … + a_k) · (x_k − m_{k−1}),   m_1 = x_1

    Sums are float32, or float64 for float64 weights; the mean has the first file's dtypes.
    In memory are the mean and one tensor of one file, however many there are; of pickled files, one
    file. Integer tensors are the last file's. BatchNorm statistics are means too: recompute them
    before use. A tensor that holds infinity, such as an attention mask, is taken over where all
    files have the same values.

    Args:
        files: At least two that `read_foreign` reads, of one network; folders too.
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
    mean = Mean(files, name=name, shares=shares, across_runs=across_runs)
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
    ) -> None:
        self._shares = _checked(files, shares)
        self._files, self._name = list(files), name
        self._open: dict[Path, Opened] = {}
        self.layout: dict[str, Tensor] = {}
        """Tensors of its dtypes and shapes, by name, in no memory."""
        origins: list[dict[str, set[str | int]]] = []
        for path in files:
            origins.append(_origin(self._look(path)))
            if not across_runs:
                _refuse_others(files, origins)
        self._in_pieces = len(self._open) == len(set(files))
        record = _about(self.layout, [os.path.basename(path) for path in files], shares)
        self.about = {**record, **_shared(origins)}
        """What it is the mean of, for a manifest."""

    def read(self, keys: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Its tensors in the first file's dtypes, of some keys or of all.

        Raises:
            FileError, NonFiniteError, WeightMismatchError: as `merge`.
        """
        for batch in self._batches(self.layout if keys is None else keys):
            mean = self._mean(batch)
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
        for key in keys:
            if batch and sum(sizes[other] for other in batch) + sizes[key] > most:
                yield batch
                batch = []
            batch.append(key)
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
            if not averageable(x):
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


def _fold(mean: Tensor, x: Tensor, weight: float) -> None:
    """m ← m + w·(x − m), in place and in pieces."""
    flat = (mean.view(-1), x.reshape(-1))
    for m, piece in zip(*(torch.split(values, TILE) for values in flat), strict=True):
        m += (piece.to(m.dtype) - m) * weight


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
