"""What a run's arms said about the samples: the last thing that training writes.

Metrics and reports come from these files, so they can be made again on any machine.
Shape suffixes: n samples, k classes.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from polyak import checksums, tensor_files
from polyak.errors import FileError, unknown
from polyak.records.vocabulary import RUN_AGAIN

_ASK_AGAIN = "Remove it, and run `polyak evaluate --controls` again."


class Predictions:
    """The predictions file of a run, read piece by piece.

    Parts are "test" and "holdout" with logits, and "train" with predicted classes only.
    Labels are "labels" for test; "given" and "clean" for the others.

    Args:
        path: The file.
        later: A second one, of arms that were asked about the same samples afterwards. Of what
            both hold the first counts.
        remedy: What to do about damage.

    Raises:
        FileError: if a file is damaged, or the labels of the two differ.
    """

    def __init__(self, path: Path, later: Path | None = None, *, remedy: str = RUN_AGAIN) -> None:
        self._path = path
        self._remedy = remedy
        self._keys, self._sums = _contents(path, remedy)
        self._later = None if later is None else Predictions(later, remedy=_ASK_AGAIN)
        if self._later is not None:
            shared = (key for key in self._keys & self._later._keys if "/arm/" not in key)
            for key in sorted(shared):
                if not torch.equal(self._read(key), self._later._read(key)):
                    raise FileError(
                        f"{later} is about other samples than {path}: {key} differs; expected the "
                        f"same. {_ASK_AGAIN}"
                    )

    def arms(self, part: str) -> tuple[str, ...]:
        """The arms with predictions on a part, sorted."""
        own = {key.split("/")[2] for key in self._keys if key.startswith(f"{part}/arm/")}
        return tuple(sorted(own.union(self._later.arms(part) if self._later else ())))

    def logits_nk(self, part: str, arm: str) -> Tensor:
        """Logits of an arm, shape (n, k), float32."""
        return self._read(f"{part}/arm/{arm}")

    def predicted_n(self, part: str, arm: str) -> Tensor:
        """Predicted classes of an arm, shape (n,), int64."""
        values = self._read(f"{part}/arm/{arm}")
        return values.argmax(dim=1) if values.ndim == 2 else values.long()

    def labels_n(self, part: str, kind: str = "labels") -> Tensor:
        """Labels of a part, shape (n,), int64."""
        return self._read(f"{part}/{kind}").long()

    def check(self) -> None:
        """Read everything, so that damage is found now.

        Raises:
            FileError: that names what is damaged.
        """
        for key in self._keys:
            self._read(key)
        if self._later is not None:
            self._later.check()

    def __contains__(self, part: str) -> bool:
        return any(key.startswith(f"{part}/") for key in self._keys)

    def _read(self, key: str) -> Tensor:
        if key not in self._keys and self._later is not None:
            return self._later._read(key)
        if key not in self._keys:
            raise FileError(unknown(f"the tensor in {self._path}", key, sorted(self._keys)))
        with tensor_files.opened(self._path, advice=self._remedy) as file:
            # The file is mapped: written to later, it would change what was found right.
            tensor: Tensor = file.get_tensor(key).clone()
        if self._sums and checksums.of_tensor(tensor) != self._sums.get(key):
            raise tensor_files.damaged(
                self._path, f"{key} does not match its checksum", advice=self._remedy
            )
        return tensor


def _contents(path: Path, remedy: str) -> tuple[frozenset[str], dict[str, str]]:
    """Names of a file's tensors, and their checksums."""
    with tensor_files.opened(path, advice=remedy) as file:
        # Files of before 23 November 2026 have no checksums.
        sums: dict[str, str] = json.loads((file.metadata() or {}).get("sha256", "{}"))
        return frozenset(file.keys()), sums


def holds(path: Path, part: str, arms: Collection[str]) -> bool:
    """Whether a file is there, whole, with what the arms say of a part."""
    try:
        if not path.exists():
            return False
        said = Predictions(path)
        said.check()
        return set(arms) <= set(said.arms(part))
    except FileError:
        # Damaged; whoever asks can make it again.
        return False


def write_predictions(
    path: Path,
    *,
    arms: Mapping[str, Mapping[str, Tensor]],
    labels: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Write predictions and labels.

    Args:
        path: The file.
        arms: Part → arm → logits (n, k) or predicted classes (n,).
        labels: Part → kind → labels (n,).
    """
    tensors: dict[str, Tensor] = {}
    for part, by_arm in arms.items():
        tensors |= {f"{part}/arm/{arm}": values for arm, values in by_arm.items()}
    for part, by_kind in labels.items():
        tensors |= {f"{part}/{kind}": values for kind, values in by_kind.items()}
    compact = {key: _compact(values) for key, values in tensors.items()}
    sums = {key: checksums.of_tensor(values) for key, values in compact.items()}
    tensor_files.write(path, compact, {"sha256": json.dumps(sums)})


def _compact(values: Tensor) -> Tensor:
    """float32 for logits, int32 for classes, in ordinary memory."""
    wanted = torch.float32 if values.is_floating_point() else torch.int32
    return values.detach().to("cpu", wanted).contiguous()
