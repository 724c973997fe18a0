"""The mean of the weights in several files: a model soup, or checkpoints of one run."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polyak.averaging.kernels import all_finite
from polyak.averaging.manifest import dtypes
from polyak.averaging.plain import read_named
from polyak.averaging.tensorfile import Path, quoted
from polyak.errors import ConfigError, NonFiniteError, WeightMismatchError

NAME = "merged"


def merge(
    files: Sequence[Path],
    *,
    name: str | None = None,
    shares: Sequence[float] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The mean of the weights in files, one file after another.

        m_k = m_{k−1} + a_k / (a_1 + … + a_k) · (x_k − m_{k−1}),   m_1 = x_1

    Sums are float32, or float64 for float64 weights, and come back in the first file's dtypes.
    In memory are the mean and one file, however many there are. Integer tensors are the last
    file's. BatchNorm statistics are means too: recompute them before use.

    Args:
        files: At least two that `read_foreign` reads, of one network.
        name: Which weights of each file; None where each holds just one.
        shares: a, one a file, finite and > 0; None for equal ones.

    Returns:
        The state dict, and a manifest that says what it is the mean of.

    Raises:
        ConfigError: for fewer than two files, or shares that do not fit.
        WeightMismatchError: if a file's tensors have other names or shapes than the first's, or
            are whole, real or complex numbers where the first's are not.
        NonFiniteError: if a file holds NaN or infinity.

    Source:
        Uniform soup of Wortsman et al. 2022, section 2; of one run's checkpoints, Izmailov et al.
        2018. The recurrence is that of `kinds.Uniform`.
    """
    weights = _checked(files, shares)
    first = read_named(files[0], name)[1]
    _refuse_nonfinite(files[0], first)
    mean = {key: _wide(x) for key, x in first.items()}
    stored = {key: x.dtype for key, x in first.items()}
    # Only the mean stays in memory while the next file is read.
    del first
    total = weights[0]
    for path, share in zip(files[1:], weights[1:], strict=True):
        total += share
        _fold(mean, read_named(path, name)[1], share / total, path=path, first=files[0])
    merged = {key: x.to(stored[key]) for key, x in mean.items()}
    return merged, _about(merged, [os.path.basename(path) for path in files], shares)


def _fold(
    mean: dict[str, Tensor], state: dict[str, Tensor], weight: float, *, path: Path, first: Path
) -> None:
    """m ← m + w·(x − m), in place, once the file is known to be sound."""
    _refuse_nonfinite(path, state)
    _refuse_mismatch(path, first, mean, state)
    for key, x in state.items():
        if _averaged(x):
            mean[key] += (x.to(mean[key].dtype) - mean[key]) * weight
        else:
            mean[key] = x


def _checked(files: Sequence[Path], shares: Sequence[float] | None) -> list[float]:
    if len(files) < 2:
        raise ConfigError(f"files has {len(files)}; expected at least two. Name more.")
    found = [1.0] * len(files) if shares is None else [float(share) for share in shares]
    if len(found) != len(files) or not all(0 < share < float("inf") for share in found):
        raise ConfigError(
            f"shares is {found} for {len(files)} files; expected one finite number > 0 for each."
        )
    return found


def _averaged(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _wide(x: Tensor) -> Tensor:
    """A tensor of its own in the dtype that sums are kept in."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True) if _averaged(x) else x


def _refuse_nonfinite(path: Path, state: dict[str, Tensor]) -> None:
    bad = [key for key, x in state.items() if _averaged(x) and not all_finite([x])]
    if bad:
        raise NonFiniteError(
            f"{os.fspath(path)} holds values that are not finite in {quoted(bad)}; expected "
            "finite ones. Leave the file out."
        )


def _refuse_mismatch(
    path: Path, first: Path, mean: dict[str, Tensor], state: dict[str, Tensor]
) -> None:
    shared = mean.keys() & state.keys()
    faults = {
        "names": mean.keys() ^ state.keys(),
        "shapes": {key for key in shared if mean[key].shape != state[key].shape},
        # Real and complex would lose the imaginary part, and of whole ones there is no mean.
        "kinds of number": {key for key in shared if _sort(mean[key]) != _sort(state[key])},
    }
    for what, differing in faults.items():
        if differing:
            raise WeightMismatchError(
                f"{os.fspath(path)} differs from {os.fspath(first)} in the {what} of "
                f"{quoted(sorted(differing))}; expected files of one network. Leave it out."
            )


def _sort(x: Tensor) -> tuple[bool, bool]:
    """Whether a tensor holds real, complex or whole numbers, however wide."""
    return x.is_floating_point(), x.is_complex()


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
