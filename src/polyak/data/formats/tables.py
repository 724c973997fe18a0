"""Tables with an image and a label column, read through Hugging Face's `datasets`.

`datasets` is imported when a function here is called, never before.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyak.data.formats.pictures import PictureStack
from polyak.data.images import ImageSet
from polyak.errors import DataError, unknown

TEST_NAMES = ("test", "validation", "valid", "val")
"""Names of the split to test on, the first that is there; train's is always train."""

Columns = tuple[str | None, str | None]
"""Image and label column as the user named them."""

Decoded = tuple[ImageSet, ImageSet]


def decode_parquet(files: Mapping[str, Sequence[Path]], columns: Columns) -> Decoded:
    """Training and test set of parquet files, given as paths under "train" and "test"."""
    # `datasets` takes patterns, so brackets in a folder's name must be escaped.
    patterns = {split: [escape(str(path)) for path in paths] for split, paths in files.items()}
    return _decode_local("parquet", columns, data_files=patterns)


def decode_image_folder(folders: Mapping[str, Path]) -> Decoded:
    """Training and test set of folders that hold one folder of images for each class."""
    patterns = {split: f"{escape(str(folder))}/**" for split, folder in folders.items()}
    return _decode_local(
        "imagefolder", (None, None), data_files=patterns, drop_labels=False, drop_metadata=True
    )


def decode_hub(name: str, columns: Columns) -> Decoded:
    """Training and test set of a data set of the hub, from its cache where it is there."""
    with _reading(name):
        splits = _library().load_dataset(name)
    return _decode(_train_and_test(splits, name), columns)


def hub_identity(name: str) -> str:
    """The fingerprints that `datasets` gives to the splits of a data set of the hub."""
    with _reading(name):
        splits = _library().load_dataset(name)
    return " ".join(split._fingerprint for split in _train_and_test(splits, name))


def find_columns(features: Mapping[str, Any], columns: Columns) -> tuple[str, str]:
    """Names of the image and the label column: as named, else the only one whose type fits.

    Images: type Image, bytes, or {bytes, path}. Labels: ClassLabel, else integers; of several,
    CIFAR-100's fine_label; text only if named, since it may be anything.

    Raises:
        DataError: that lists the candidates, if none or several fit, or the named one does not.
    """
    library = _library()
    images = [name for name, feature in features.items() if _holds_images(feature)]
    labels = [name for name, f in features.items() if isinstance(f, library.ClassLabel)]
    integers = [name for name, f in features.items() if "int" in str(getattr(f, "dtype", ""))]
    texts = [name for name, f in features.items() if "string" in str(getattr(f, "dtype", ""))]
    image, label = columns
    if label is None and "fine_label" in labels:
        label = "fine_label"
    return (
        _one("image_column", image, images, images, features),
        _one("label_column", label, labels or integers, integers + texts, features),
    )


def _one(
    what: str, named: str | None, found: list[str], allowed: list[str], features: Mapping[str, Any]
) -> str:
    if named is not None:
        if named in allowed:
            return named
        raise DataError(unknown(what, named, allowed or features))
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{what} is None and {len(found)} columns can be it; expected one of "
        f"{', '.join(found or allowed or features)}. Name it with {what}."
    )


def _holds_images(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, _library().Image) or getattr(feature, "dtype", "") == "binary"


def _decode_local(kind: str, columns: Columns, **options: Any) -> Decoded:
    # Our own cache keeps the result; `datasets` need not keep another copy.
    with TemporaryDirectory(prefix="polyak-") as folder:
        with _reading(f"the {kind} source"):
            splits = _library().load_dataset(kind, cache_dir=folder, **options)
        return _decode((splits["train"], splits["test"]), columns)


def _decode(splits: tuple[Any, Any], columns: Columns) -> Decoded:
    image, label = find_columns(splits[0].features, columns)
    stack, parts = PictureStack(), []
    for what, split in zip(("train", "test"), splits, strict=True):
        column = split.select_columns([image]).cast_column(image, _library().Image())
        pictures = (row[image] for row in column)
        parts.append(stack.add(pictures, len(split), what=what))
    parts_nchw = stack.finish(*parts)
    labels, classes = _labels(splits, label)
    train, test = (
        ImageSet(images_nchw=images_nchw, labels_n=labels_n, classes=classes)
        for images_nchw, labels_n in zip(parts_nchw, labels, strict=True)
    )
    return train, test


def _labels(splits: tuple[Any, Any], column: str) -> tuple[list[Tensor], tuple[str, ...]]:
    values = [s.select_columns([column]).with_format("numpy")[:][column] for s in splits]
    if any(part.dtype.kind not in "iuU" for part in values):
        raise DataError(f"column {column!r} has rows without a label; expected one in each row.")
    features = [split.features[column] for split in splits]
    if isinstance(features[0], _library().ClassLabel):
        if features[0].names != getattr(features[1], "names", None):
            raise DataError(f"column {column!r} has other class names in test; expected train's.")
        return [torch.from_numpy(part.astype(np.int64)) for part in values], (*features[0].names,)
    numbers = np.unique(values[0])
    strange = np.setdiff1d(values[1], numbers)
    if strange.size:
        raise DataError(
            f"column {column!r} of test holds {strange[0]}, which no row of train has; expected "
            "labels of train only. Leave those rows out."
        )
    places = [torch.from_numpy(np.searchsorted(numbers, part)) for part in values]
    return places, tuple(str(number) for number in numbers)


def _train_and_test(splits: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    test = next((split for split in TEST_NAMES if split in splits), None)
    if "train" not in splits or test is None:
        raise DataError(
            f"data set {name!r} has the splits {', '.join(splits)}; "
            f"expected train and one of {', '.join(TEST_NAMES)}."
        )
    return splits["train"], splits[test]


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """No progress bars within the block, and the user's faults as ours."""
    library = _library()
    from huggingface_hub import utils as hub

    shown = [part for part in (library, hub) if not part.are_progress_bars_disabled()]
    for part in shown:
        part.disable_progress_bars()
    try:
        yield
    except (OSError, ValueError, library.exceptions.DatasetsError) as error:
        cause = str(error.__cause__ or error).strip().split("\n")[0]
        raise DataError(
            f"{what} cannot be read ({cause}); expected a folder, or the name of a data set of "
            "the Hugging Face hub and a network to fetch it."
        ) from error
    finally:
        for part in shown:
            part.enable_progress_bars()


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "the package datasets is missing; expected it for this source. Install `polyak[study]`."
        ) from error
    return datasets
