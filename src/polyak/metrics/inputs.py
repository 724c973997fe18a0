"""What a metric accepts, checked once at the door.

Every metric works on float64 copies without gradient: a float32 softmax saturates at exactly 1,
and then samples that differ are tied.

Shape suffixes: n samples, k classes.
"""

from typing import Literal

import torch
from torch import Tensor

from polyak.errors import DataError, warn


def check_tensors(**values: object) -> None:
    """Raise a DataError that names the first argument that is no tensor."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            kind = type(value)
            known = (
                kind.__name__
                if kind.__module__ == "builtins"
                else f"{kind.__module__}.{kind.__name__}"
            )
            raise DataError(
                f"{name} is a {known}; expected a torch.Tensor. Pass torch.as_tensor({name})."
            )


def wide_logits(logits_nk: Tensor, *, name: str = "logits", argmax_only: bool = False) -> Tensor:
    """The logits as float64 without gradient, or a DataError that says what is wrong.

    Rows that look like probabilities are warned of: they may be logits, but hardly are. Where
    only the largest of a row counts, there is no difference.
    """
    check_tensors(**{name: logits_nk})
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
    if not argmax_only and last_step(logits_nk) == "softmax":
        warn(
            f"the rows of {name} are >= 0 and sum to 1, as probabilities do; expected outputs "
            f"before softmax, which is applied here. Pass those, or {name}.log()."
        )
    return wide_nk


def last_step(outputs_nk: Tensor) -> Literal["softmax", "log_softmax", "sigmoid"] | None:
    """What was applied to logits, by the look of outputs (n, k); None if they are logits.

    Example:
        >>> import torch
        >>> last_step(torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
        'softmax'
    """
    wide_nk = outputs_nk.detach().double()
    # Each probability of a row was rounded.
    tolerance = max(1e-3, 2 * torch.finfo(outputs_nk.dtype).eps)
    if _are_probabilities(wide_nk, tolerance):
        return "softmax"
    if bool((wide_nk <= 0).all()) and _are_probabilities(wide_nk.exp(), tolerance):
        return "log_softmax"
    return "sigmoid" if bool(((wide_nk > 0) & (wide_nk < 1)).all()) else None


def _are_probabilities(wide_nk: Tensor, tolerance: float) -> bool:
    """Of classes that exclude each other, by more than the chance of one row."""
    off_n = (wide_nk.sum(dim=1) - 1).abs()
    looks_so = bool((wide_nk >= 0).all()) and bool((off_n < tolerance).all())
    # Rows of 0 and 1 alone may be logits of small integers as well.
    return looks_so and len(wide_nk) > 1 and not bool((wide_nk == wide_nk.round()).all())


def labelled_logits(
    logits_nk: Tensor, labels_n: Tensor, *, argmax_only: bool = False
) -> tuple[Tensor, Tensor]:
    """Checked logits and, on their device as int64, one label for each row."""
    check_tensors(logits=logits_nk, labels=labels_n)
    wide_nk = wide_logits(logits_nk, argmax_only=argmax_only)
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


def paired_logits(
    logits_a_nk: Tensor, logits_b_nk: Tensor, *, argmax_only: bool = False
) -> tuple[Tensor, Tensor]:
    """Two models' checked logits for the same samples and classes, on one device."""
    a_nk = wide_logits(logits_a_nk, name="logits_a", argmax_only=argmax_only)
    b_nk = wide_logits(logits_b_nk, name="logits_b", argmax_only=argmax_only)
    if a_nk.shape != b_nk.shape:
        raise DataError(
            f"the shape of logits_b is {tuple(b_nk.shape)}; expected {tuple(a_nk.shape)} as "
            "logits_a. Compare two models on the same samples in the same order."
        )
    return a_nk, b_nk.to(a_nk.device)
