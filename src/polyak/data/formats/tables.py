"""Tables with an image and a label column, read through Hugging Face's `datasets`.

`datasets` is imported when a function here is called, never before.

Shape suffixes: h height, w width, c channels.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from glob import escape
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import numpy as np

from polyak.data.formats.columns import find_columns, is_text
from polyak.data.formats.found import OWN_FUNCTION, SPELLINGS, Found, Reading, Split, Wanted, roles
from polyak.data.pictures import Pixels, Raw
from polyak.errors import DataError

BATCH = 256
"""Rows that are in memory at a time while pictures are read."""

_TEST_WITHOUT_LABELS = (
    "Where test images have no labels, give the file of train as the source, and test_split."
)

Place = Callable[[str, int], str]
"""Where a row of a split lies, for messages."""


def find_hub(name: str, wanted: Wanted) -> Found:
    """A data set of the hub by its name, from its cache where it is there."""
    return Found(
        kind="hub",
        read=partial(read_hub, name, wanted),
        identity=partial(hub_identity, name, wanted),
        columns=True,
    )


def read_hub(name: str, wanted: Wanted) -> Reading:
    """Its splits, by role."""
    splits, notes = _hub_splits(name, wanted)
    return read_splits(splits, wanted, place=_row_of_split, notes=notes)


def hub_identity(name: str, wanted: Wanted) -> str:
    """The fingerprints that `datasets` gives to the splits of a data set of the hub."""
    splits, _ = _hub_splits(name, wanted)
    return " ".join(split._fingerprint for split in splits.values())


def load_files(kind: str, files: Mapping[str, Sequence[Path]], **options: Any) -> dict[str, Any]:
    """Tables of files, by role, in memory or in a temporary cache that goes with them."""
    # `datasets` takes patterns, so brackets in a folder's name must be escaped.
    patterns = {role: [escape(str(path)) for path in paths] for role, paths in files.items()}
    # Our own cache keeps the result; `datasets` need not keep another copy.
    folder = mkdtemp(prefix="polyak-")
    try:
        with reading(f"the {kind} source"):
            loaded = library().load_dataset(kind, cache_dir=folder, data_files=patterns, **options)
    except BaseException:
        rmtree(folder, ignore_errors=True)
        raise
    splits = {role: loaded[role] for role in files}
    finalize(splits["train"], rmtree, folder, ignore_errors=True)
    return splits


def load_saved(path: Path) -> dict[str, Any]:
    """What `save_to_disk` wrote, by the names of its splits; one without a name is train."""
    with reading(f"folder '{path}'"):
        loaded = library().load_from_disk(str(path))
    return dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}


def read_splits(
    splits: Mapping[str, Any],
    wanted: Wanted,
    *,
    place: Place,
    bases: Mapping[str, Sequence[Path]] | None = None,
    notes: Sequence[str] = (),
) -> Reading:
    """Image and label column of tables.

    Args:
        splits: `datasets.Dataset` by role.
        wanted: Columns that the user named.
        place: Where a row lies.
        bases: By role, folders from which paths in the table count; none: no paths.
        notes: What was left out before.
    """
    bases = bases or {}
    train = splits["train"]
    image, label = find_columns(
        train.features, wanted.columns, paths=path_columns(train, bases.get("train", ()))
    )
    for role, split in splits.items():
        lacking = [name for name in (image, label) if name not in split.features]
        if lacking:
            raise DataError(
                f"{role} has no column {lacking[0]!r}; expected train's columns. "
                f"{_TEST_WITHOUT_LABELS}"
            )
    places = {role: partial(place, role) for role in splits}
    return Reading(
        splits={
            role: Split(
                labels=_labels(split, label, places[role]),
                pictures=partial(_pictures, split, image, places[role], bases.get(role, ())),
                place=places[role],
            )
            for role, split in splits.items()
        },
        classes=_class_names(
            {role: split.features[label] for role, split in splits.items()}, label
        ),
        notes=notes,
    )


def path_columns(split: Any, bases: Sequence[Path]) -> list[str]:
    """Columns of text whose first value names a file, from one of the bases."""
    if not bases or not len(split):
        return []
    texts = [field.name for field in split.features.arrow_schema if is_text(field.type)]
    first = split.select_columns(texts)[0] if texts else {}
    return [name for name, value in first.items() if value and path_from(value, bases)]


def path_from(text: str, bases: Sequence[Path]) -> Path | None:
    """The file that a text names, from the first base where it is there; also as Windows says."""
    names = dict.fromkeys((text, text.replace("\\", "/")))
    paths = (base / name for name in names for base in bases)
    try:
        return next((path for path in paths if path.is_file()), None)
    except (OSError, ValueError):  # too long, or with a zero byte: no name of a file
        return None


def paths_in(
    split: Any, column: str, bases: Sequence[Path], place: Callable[[int], str]
) -> Iterator[Path]:
    """The file that each row names; a DataError that names the first row without one."""
    for index, text in enumerate(_arrow(split, column).to_pylist()):
        path = path_from(text, bases) if text else None
        if path is None:
            raise DataError(
                f"{place(index)} names the file {text!r} in column {column!r}; expected a file "
                f"there, seen from '{bases[0]}'."
            )
        yield path


def _labels(split: Any, column: str, place: Callable[[int], str]) -> Pixels:
    """Integers, booleans or text, one a row."""
    import pyarrow as pa

    column_n = _arrow(split, column)
    kind, values = column_n.type, column_n.to_pylist()
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_nested(kind):
        return _of_lists(values, column, place)
    missing = [i for i, value in enumerate(values) if value in (None, "") or value != value]
    if values and len(missing) == len(values):
        raise DataError(
            f"column {column!r} has no label in any row of {place(0).split()[0]}; expected one in "
            f"each. {_TEST_WITHOUT_LABELS}"
        )
    if missing:
        raise DataError(
            f"column {column!r} has rows without a label, first {place(missing[0])}; expected one "
            "in each row."
        )
    found: Pixels = np.array(values, str if is_text(kind) else kind.to_pandas_dtype())
    if found.dtype.kind == "f":
        broken = np.flatnonzero(found != np.round(found))
        if broken.size:
            raise DataError(
                f"column {column!r} holds {found[broken[0]]} at {place(broken[0])}; expected whole "
                "numbers, one for each class."
            )
        found = found.astype(np.int64)
    return found


def _of_lists(values: Sequence[Any], column: str, place: Callable[[int], str]) -> Pixels:
    for index, value in enumerate(values):
        if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], int):
            raise DataError(
                f"column {column!r} holds {value!r:.40} at {place(index)}; expected one whole "
                f"number in each row. {OWN_FUNCTION}"
            )
    return np.array([value[0] for value in values])


def _class_names(features: Mapping[str, Any], column: str) -> tuple[str, ...] | None:
    """Names that the table itself gives to its classes."""
    train = features["train"]
    if not isinstance(train, library().ClassLabel):
        return None
    for role, feature in features.items():
        if getattr(feature, "names", None) != train.names:
            raise DataError(f"column {column!r} has other class names in {role}; expected train's.")
    return tuple(train.names)


def _pictures(
    split: Any, column: str, place: Callable[[int], str], bases: Sequence[Path]
) -> Iterator[Raw]:
    rows = split.select_columns([column]).with_format("arrow")
    index = 0
    for table in rows.iter(batch_size=BATCH):
        for value in _plain(table.column(0)):
            yield _raw(value, bases, place, index)
            index += 1


def _raw(value: Any, bases: Sequence[Path], place: Callable[[int], str], index: int) -> Raw:
    if isinstance(value, Mapping):
        content, text = value["bytes"], value["path"]
        value = text if content is None and text else content
    if isinstance(value, str):
        path = path_from(value, bases or (Path(),))
        if path is None:
            raise DataError(f"{place(index)} names the file {value!r}; expected a file there.")
        return path
    return _pixels(value, place, index) if isinstance(value, list) else value


def _pixels(value: list[Any], place: Callable[[int], str], index: int) -> Pixels:
    """uint8 (h, w) or (h, w, c) of nested lists; channels may come first, and a flat list is the
    rows of a grey square."""
    try:
        pixels = np.array(value)
    except ValueError:
        pixels = np.zeros(0)
    whole = pixels.dtype.kind in "iu" or (
        # Fractions from 0 to 1 are pixels of another scale: 1 would be black.
        pixels.dtype.kind == "f" and pixels.size and pixels.max() > 1 and not (pixels % 1).any()
    )
    if pixels.ndim == 1 and pixels.size and math.isqrt(pixels.size) ** 2 == pixels.size:
        pixels = pixels.reshape(math.isqrt(pixels.size), -1)
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    shown = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    if not whole or not shown or not pixels.size or pixels.min() < 0 or pixels.max() > 255:
        numbers = f"{pixels.min()} to {pixels.max()}" if pixels.size else "of unequal lengths"
        raise DataError(
            f"{place(index)} is lists of shape {pixels.shape}, {numbers}; expected whole numbers "
            f"from 0 to 255 of shape (h, w), (h, w, c) or (c, h, w). {OWN_FUNCTION}"
        )
    return pixels.astype(np.uint8)


def _arrow(split: Any, column: str) -> Any:
    return split.select_columns([column]).with_format("arrow")[:].column(0)


def _plain(column: Any) -> list[Any]:
    import pyarrow as pa

    if isinstance(column.type, pa.ExtensionType):
        return [value for chunk in column.chunks for value in chunk.storage.to_pylist()]
    return list(column.to_pylist())


def _hub_splits(name: str, wanted: Wanted) -> tuple[dict[str, Any], list[str]]:
    with reading(name):
        splits = library().load_dataset(name)
    return splits_by_role(splits, wanted, what=f"data set {name!r}")


def splits_by_role(
    splits: Mapping[str, Any], wanted: Wanted, *, what: str
) -> tuple[dict[str, Any], list[str]]:
    """Splits whose whole name is a spelling of train, test or validation; and what is left out."""
    named = {
        split: word
        for split, words in SPELLINGS.items()
        if (word := next((word for word in words if word in splits), None))
    }
    used = roles(named, wanted, what=what, names=splits)
    notes = [f"left out: split {name!r}" for name in splits if name not in used.values()]
    return {role: splits[name] for role, name in used.items()}, notes


def _row_of_split(role: str, index: int) -> str:
    return f"{role} image {index}"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """No progress bars within the block, and the user's faults as ours."""
    datasets = library()
    from huggingface_hub import utils as hub

    shown = [part for part in (datasets, hub) if not part.are_progress_bars_disabled()]
    for part in shown:
        part.disable_progress_bars()
    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        cause = str(error.__cause__ or error).strip().split("\n")[0]
        raise DataError(
            f"{what} cannot be read ({cause}); expected a folder, or the name of a data set of "
            "the Hugging Face hub and a network to fetch it."
        ) from error
    finally:
        for part in shown:
            part.enable_progress_bars()


def library() -> Any:
    """The package `datasets`; a DataError says what to install where it is missing."""
    return _library()


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "the package datasets is missing; expected it for this source. Install `polyak[study]`."
        ) from error
    return datasets
