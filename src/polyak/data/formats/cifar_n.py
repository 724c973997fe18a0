"""Human labels of CIFAR-N files, read without running code and only beside their own images.

Shape suffix: n images.
"""

import os
import pickle
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct
from torch import Tensor

from polyak.errors import DataError, FileError, unknown


def read_cifar_n(path: str | os.PathLike[str], key: str, clean_labels_n: Tensor) -> Tensor:
    """Human labels of a CIFAR-N file, if it was made for this training set in this order.

    Args:
        path: The authors' file, such as CIFAR-10_human.pt.
        key: Which labels, such as worse_label (CIFAR-10) or noisy_label (CIFAR-100).
        clean_labels_n: The data set's own labels, int64, shape (n,).

    Returns:
        The human labels, int64, shape (n,).

    Raises:
        FileError: if it is not a CIFAR-N file, or holds anything but arrays. No code of it is run.
        DataError: if its clean labels are not `clean_labels_n`, or the key is not in it.

    Source:
        Wei et al. 2022, "Learning with noisy labels revisited".
    """
    arrays = _read_arrays(path)
    if "clean_label" not in arrays:
        raise FileError(f"file {os.fspath(path)!r} has no clean_label; expected a CIFAR-N file.")
    if key not in arrays:
        raise DataError(unknown("noise.key", key, sorted(arrays)))
    _check_same(path, arrays["clean_label"], clean_labels_n)
    given, classes = arrays[key], np.unique(arrays["clean_label"])
    # Coarse labels of CIFAR-100 lie in the same file; as labels of 100 classes they are nonsense.
    if given.shape != (len(clean_labels_n),) or not np.array_equal(np.unique(given), classes):
        raise DataError(
            f"noise.key is {key!r}, {given.size} labels of {len(np.unique(given))} classes; "
            f"expected {len(clean_labels_n)} labels of the {len(classes)} classes of clean_label."
        )
    return torch.from_numpy(given)


def _read_arrays(path: str | os.PathLike[str]) -> dict[str, "np.ndarray[Any, Any]"]:
    numpy_arrays: list[Any] = [
        # The files were written by numpy 1, which called the module `core`.
        (_reconstruct, "numpy.core.multiarray._reconstruct"),
        _reconstruct,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
    ]
    try:
        with torch.serialization.safe_globals(numpy_arrays):
            content = torch.load(path, map_location="cpu", weights_only=True)
        return {str(key): np.asarray(value).astype(np.int64) for key, value in content.items()}
    except FileNotFoundError as error:
        raise FileError(f"noise.file is {os.fspath(path)!r}; expected a file there.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ValueError) as error:
        raise FileError(
            f"file {os.fspath(path)!r} cannot be read as a CIFAR-N file; expected a .pt file that "
            "holds a dictionary of integer arrays and nothing else."
        ) from error


def _check_same(
    path: str | os.PathLike[str], theirs: "np.ndarray[Any, Any]", ours_n: Tensor
) -> None:
    ours = ours_n.numpy()
    if theirs.shape != ours.shape:
        raise DataError(
            f"file {os.fspath(path)!r} has {len(theirs)} labels; expected {len(ours)}, "
            "the number of training images."
        )
    wrong = np.flatnonzero(theirs != ours)
    if wrong.size:
        raise DataError(
            f"clean_label of file {os.fspath(path)!r} differs from the data set's labels at "
            f"{wrong.size} of {ours.size} images, first at {wrong[0]}; expected the same labels "
            "in the same order. Use the training set that the file was made for, in its "
            "original order."
        )
