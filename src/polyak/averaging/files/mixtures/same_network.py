"""Whether files that are to be summed hold the weights of one network, in finite numbers."""

import os
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from polyak.averaging.files.file_format import Path
from polyak.averaging.kernels import TILE, all_finite, averageable
from polyak.errors import NonFiniteError, WeightMismatchError, quote


class OneNetwork:
    """The network of a first file, with which those of others are compared.

    Args:
        path: The first file.
        state: Its weights, of which only dtypes and shapes are looked at.
    """

    def __init__(self, path: Path, state: Mapping[str, Tensor]) -> None:
        self._first = path
        self._shapes = {key: x.shape for key, x in state.items()}
        self._sorts = {key: _sort(x) for key, x in state.items()}
        self._seen: set[str] = set()
        self.infinite: dict[str, Tensor] = {}
        """What no sum can be taken of, such as an attention mask: the same in every file."""

    def check(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Compare a file's weights with the first's; the first file's own come first.

        Raises:
            WeightMismatchError: as `check_layout` does.
            NonFiniteError: as `check_values` does.
        """
        self.check_layout(path, state)
        self.check_values(path, state)

    def check_layout(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Compare names, shapes and sorts of number.

        Raises:
            WeightMismatchError: if they have other names or shapes, or are whole, real or complex
                numbers where the first's are not.
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

    def check_values(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Refuse what has no mean, in all of a file's tensors or in some.

        Raises:
            NonFiniteError: for NaN, or infinity that not all files hold alike.
        """
        found = _infinite(path, state)
        for key in state.keys() - self._seen:
            self._seen.add(key)
            if key in found:
                self.infinite[key] = state[key].clone()
        held = self.infinite.keys() & state.keys()
        same = {key for key in held if _equal(state[key], self.infinite[key])}
        if found - same:
            raise _not_finite(path, found - same)
        if held - same:
            raise _not_finite(self._first, held - same)


def _sort(x: Tensor) -> tuple[bool, bool]:
    """Whether a tensor holds real, complex or whole numbers, however wide."""
    return x.is_floating_point(), x.is_complex()


def _equal(x: Tensor, y: Tensor) -> bool:
    wide = torch.promote_types(x.dtype, y.dtype)
    return torch.equal(x.to(wide), y.to(wide))


def _infinite(path: Path, state: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that hold infinity; NaN is refused."""
    bad = {key for key, x in state.items() if averageable(x) and not _is_finite(x)}
    if nan := {key for key in bad if bool(state[key].isnan().any())}:
        raise _not_finite(path, nan)
    return bad


def _is_finite(x: Tensor) -> bool:
    # In pieces, one by one, since the sum of a narrow one is taken of a wide copy.
    return all(all_finite([piece]) for piece in torch.split(x.reshape(-1), TILE))


def _not_finite(path: Path, names: Collection[str]) -> NonFiniteError:
    return NonFiniteError(
        f"{os.fspath(path)} holds values that are not finite in {quote(sorted(names))}; expected "
        "finite ones, or the same in every file. Leave the file out."
    )
