"""What a metric accepts, checked once at the door.

Every metric works on float64 copies without gradient: a float32 softmax saturates at exactly 1,
and then samples that differ are tied.

Shape suffixes: n samples, k classes.
"""

import torch
from torch import Tensor

from polyak.errors import DataError


def wide_logits(logits_nk: Tensor, *, name: str = "logits") -> Tensor:
    """The logits as float64 without gradient, or a DataError that says what is wrong."""
    shape = tuple(logits_nk.shape)
    if logits_nk.ndim != 2 or shape[0] < 1 or shape[1] < 2:
        raise DataError(
            f"the shape of {name} is {shape}; expected (n, k) with n >= 1 samples and k >= 2 "
            "classes. Stack the batches along the first axis."
        )
    if not logits_nk.is_floating_point():
        raise DataError(
            f"the dtype of {name} is {logits_nk.dtype}; expected a floating one. "
            "Pass the model's outputs before softmax, not predicted classes."
        )
    wide_nk = logits_nk.detach().double()
    bad = int((~wide_nk.isfinite()).sum())
    if bad:
        raise DataError(
            f"the number of NaN or infinite values in {name} is {bad}; expected 0. "
            "Find the model or the input that made them: no metric of such outputs has a meaning."
        )
    return wide_nk


def labelled_logits(logits_nk: Tensor, labels_n: Tensor) -> tuple[Tensor, Tensor]:
    """Checked logits and, on their device as int64, one label for each row."""
    wide_nk = wide_logits(logits_nk)
    samples, classes = wide_nk.shape
    if labels_n.shape != (samples,):
        raise DataError(
            f"the shape of labels is {tuple(labels_n.shape)}; expected ({samples},), one label "
            "for each row of logits. Pass class numbers, not one-hot rows."
        )
    if labels_n.is_floating_point() or labels_n.is_complex() or labels_n.dtype == torch.bool:
        raise DataError(
            f"the dtype of labels is {labels_n.dtype}; expected int64. Pass class numbers."
        )
    long_n = labels_n.detach().to(device=wide_nk.device, dtype=torch.int64)
    low, high = int(long_n.min()), int(long_n.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"the range of labels is {low} to {high}; expected 0 to {classes - 1}, as logits have "
            f"{classes} classes. Use the labels of the data set that the model was trained for."
        )
    return wide_nk, long_n


def paired_logits(logits_a_nk: Tensor, logits_b_nk: Tensor) -> tuple[Tensor, Tensor]:
    """Two models' checked logits for the same samples and classes, on one device."""
    a_nk = wide_logits(logits_a_nk, name="logits_a")
    b_nk = wide_logits(logits_b_nk, name="logits_b")
    if a_nk.shape != b_nk.shape:
        raise DataError(
            f"the shape of logits_b is {tuple(b_nk.shape)}; expected {tuple(a_nk.shape)} as "
            "logits_a. Compare two models on the same samples in the same order."
        )
    return a_nk, b_nk.to(a_nk.device)
