"""Whether files that are to be summed hold the weights of one network, in finite numbers."""

import os
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from polyak.averaging.files.file_format import Path
from polyak.averaging.kernels import all_finite, averageable
from polyak.errors import NonFiniteError, WeightMismatchError, quote


class OneNetwork:
    """The network of a first file, with which those of others are compared.

    Args:
        path: The first file.
        state: Its weights; of them only those that hold infinity are kept.

    Raises:
        NonFiniteError: for NaN in them.
    """

    def __init__(self, path: Path, state: Mapping[str, Tensor]) -> None:
        self._first = path
        self._shapes = {key: x.shape for key, x in state.items()}
        self._sorts = {key: _sort(x) for key, x in state.items()}
        self.infinite = {key: state[key].clone() for key in _infinite(path, state)}
        """What no sum can be taken of, such as an attention mask: the same in every file."""

    def check(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Compare another file's weights with the first's.

        Raises:
            WeightMismatchError: if they have other names or shapes, or are whole, real or complex
                numbers where the first's are not.
            NonFiniteError: if they hold NaN, or infinity that not both hold alike.
        """
        shared = self._shapes.keys() & state.keys()
        faults = {
            "names": self._shapes.keys() ^ state.keys(),
            "shapes": {key for key in shared if self._shapes[key] != state[key].shape},
            # Real and complex would lose the imaginary part.
            "kinds of number": {key for key in shared if self._sorts[key] != _sort(state[key])},
        }
        for what, differing in faults.items():
            if differing:
                raise WeightMismatchError(
                    f"{os.fspath(path)} differs from {os.fspath(self._first)} in the {what} of "
                    f"{quote(sorted(differing))}; expected files of one network. Leave it out."
                )
        found = _infinite(path, state)
        same = {key for key, x in self.infinite.items() if _equal(state[key], x)}
        if found - same:
            raise _not_finite(path, found - same)
        if self.infinite.keys() - same:
            raise _not_finite(self._first, self.infinite.keys() - same)


def _sort(x: Tensor) -> tuple[bool, bool]:
    """Whether a tensor holds real, complex or whole numbers, however wide."""
    return x.is_floating_point(), x.is_complex()


def _equal(x: Tensor, y: Tensor) -> bool:
    wide = torch.promote_types(x.dtype, y.dtype)
    return torch.equal(x.to(wide), y.to(wide))


def _infinite(path: Path, state: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that hold infinity; NaN is refused."""
    bad = {key for key, x in state.items() if averageable(x) and not all_finite([x])}
    if nan := {key for key in bad if bool(state[key].isnan().any())}:
        raise _not_finite(path, nan)
    return bad


def _not_finite(path: Path, names: Collection[str]) -> NonFiniteError:
    return NonFiniteError(
        f"{os.fspath(path)} holds values that are not finite in {quote(sorted(names))}; expected "
        "finite ones, or the same in every file. Leave the file out."
    )
