"""The IDX files of MNIST and Fashion-MNIST, gzip or not."""

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from polyak.data.formats.found import Found, Reading, Wanted, array_split, refuse_test_split
from polyak.data.pictures import Pixels
from polyak.errors import DataError, FileError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
STEMS = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# Of the 60,000 labels as bytes. The files themselves name no classes.
_FASHION_TRAIN_LABELS = "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"


def find(path: Path, wanted: Wanted) -> Found | None:
    """The four files, if any of them is there."""
    if not path.is_dir() or not any(_find(path, stem) for stem in STEMS.values()):
        return None
    return found_in(path, wanted)


def found_in(folder: Path, wanted: Wanted) -> Found:
    """The four files of a folder that must have them."""
    files = idx_files(folder)
    refuse_test_split(wanted, f"folder '{folder}' holds IDX files")
    return Found(kind="idx", files=files, read=partial(read_files, files))


def idx_files(folder: Path) -> dict[str, Path]:
    """The four files, by what they hold; a DataError names those that are missing."""
    found = {what: _find(folder, stem) for what, stem in STEMS.items()}
    missing = [STEMS[what] for what, path in found.items() if path is None]
    if missing:
        raise DataError(
            f"folder '{folder}' lacks {', '.join(missing)}; expected the four IDX files, gzip or "
            "not. Debian's package `dataset-fashion-mnist` has them, "
            f"in {DEBIAN_FOLDER}; or give the folder that holds them as the source."
        )
    return {what: path for what, path in found.items() if path is not None}


def read_files(files: Mapping[str, Path]) -> Reading:
    """Training and test set of the four files that `idx_files` found."""
    labels = {part: read_idx(files[f"{part} labels"]) for part in ("train", "test")}
    digest = hashlib.sha256(labels["train"].tobytes()).hexdigest()
    fashion = digest == _FASHION_TRAIN_LABELS
    highest = max(int(part.max()) for part in labels.values())
    return Reading(
        splits={
            part: array_split(read_idx(files[f"{part} images"]), labels[part], part)
            for part in ("train", "test")
        },
        classes=_FASHION_CLASSES if fashion else tuple(str(c) for c in range(highest + 1)),
    )


def read_idx(path: Path) -> Pixels:
    """The uint8 array of one IDX file.

    Format: two zero bytes, the type (8 for uint8), the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values in C order.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FileError(f"file '{path}' is a damaged gzip file; copy it again.") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise FileError(f"file '{path}' begins with {data[:4]!r}; expected an IDX file of uint8.")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if len(data) < start or len(data) - start != math.prod(shape):
        raise FileError(
            f"file '{path}' holds {len(data) - start} values; expected {math.prod(shape)}, "
            f"as its header gives the shape {tuple(shape)}. Copy it again."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _find(folder: Path, stem: str) -> Path | None:
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((path for path in candidates if path.is_file()), None)
