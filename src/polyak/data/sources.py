"""From the name of a source to its files, its identity and the way to decode it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from polyak.data import fingerprints
from polyak.data.config import DataConfig
from polyak.data.formats import folders, idx, tables
from polyak.data.images import DataSet, ImageSet
from polyak.data.labels import stratified_order
from polyak.errors import ConfigError, DataError, unknown
from polyak.userfile import load_function, parse_reference

HUB_NAMES = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
}
NAMES = ("digits", "digits-parity", "fashion-mnist", *HUB_NAMES)
_DIGITS_TEST_IMAGES = 360


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source that was found but not yet decoded."""

    decode: Callable[[], tuple[ImageSet, ImageSet]]
    """Training and test set."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """Every file that the result depends on, by name; empty where that is not known."""

    identity: Callable[[], str] | None = None
    """Fingerprint without decoding. None: it is that of the decoded arrays."""

    columns: bool = False
    """Whether it is a table, so that columns can be named."""


def name_of(source: str) -> str:
    """What pages call a source: the last part of its path or name."""
    reference = parse_reference(source)
    if reference:
        return reference[0].stem
    return source if source in NAMES else Path(source).expanduser().resolve().name


def find(config: DataConfig) -> Source:
    """The source that a configuration names, from the outside: nothing is decoded yet.

    Raises:
        DataError: if it is no known name, no path and not owner/name, or a part is missing.
    """
    source = _find(config.source, (config.image_column, config.label_column))
    for name in ("image_column", "label_column"):
        column = getattr(config, name)
        if column is not None and not source.columns:
            raise DataError(
                f"{name} is {column!r}; expected None, as source {config.source!r} is not a table."
            )
    return source


def decode(config: DataConfig) -> DataSet:
    """Decode a source, without any cache, limit, noise or split.

    Raises:
        ConfigError, DataError, FileError: if the settings or the data are at fault.
    """
    found = config.faults()
    if found:
        raise ConfigError.of("data", found)
    source = find(config)
    train, test = source.decode()
    fingerprint = source.identity() if source.identity else fingerprints.of_arrays(train, test)
    dataset = DataSet(train=train, test=test, name=name_of(config.source), fingerprint=fingerprint)
    dataset.check()
    return dataset


def decode_user_file(path: Path, function: str) -> tuple[ImageSet, ImageSet]:
    """Run the function, which takes nothing and returns a DataSet or (train, test).

    Raises:
        DataError: if file or function is missing or the result is something else. What the
            function itself raises is passed on.
    """
    made = load_function(path, function, what="source", error=DataError)()
    if isinstance(made, DataSet):
        return made.train, made.test
    if isinstance(made, tuple) and [type(part) for part in made] == [ImageSet, ImageSet]:
        return made
    raise DataError(
        f"'{path}:{function}' returned a {type(made).__name__}; "
        "expected a polyak.data.DataSet or a tuple (train, test) of ImageSets."
    )


def _find(source: str, columns: tables.Columns) -> Source:
    reference = parse_reference(source)
    if reference:
        return Source(decode=partial(decode_user_file, *reference))
    if source in ("digits", "digits-parity"):
        return Source(
            decode=partial(_decode_digits, parity=source == "digits-parity"), files=_digits_files()
        )
    if source == "fashion-mnist":
        return _idx(idx.DEBIAN_FOLDER)
    path = Path(source).expanduser()
    if source not in HUB_NAMES and path.exists():
        return _in_folder(path, columns)
    hub_name = HUB_NAMES.get(source, source)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", hub_name):
        return Source(
            decode=partial(tables.decode_hub, hub_name, columns),
            identity=lambda: fingerprints.of_text(
                tables.hub_identity(hub_name), kind="hub", columns=columns
            ),
            columns=True,
        )
    if "/" in source:
        raise DataError(f"source is {source!r}; expected a folder there.")
    raise DataError(
        unknown("source", source, NAMES) + " Or give a folder, owner/name of the hub, or "
        "file.py:load."
    )


def _in_folder(path: Path, columns: tables.Columns) -> Source:
    if not path.is_dir():
        raise DataError(f"source is '{path}', a file; expected a folder or file.py:load.")
    if idx.is_idx_folder(path):
        return _idx(path)
    by_split = folders.parquet_files(path)
    if by_split:
        files = {f"{split}/{p.name}": p for split, paths in by_split.items() for p in paths}
        return Source(
            decode=partial(tables.decode_parquet, by_split, columns),
            files=files,
            identity=partial(fingerprints.of_files, files, kind="parquet", columns=columns),
            columns=True,
        )
    if folders.is_tiny_imagenet(path):
        files = folders.tiny_imagenet_files(path)
        return Source(
            decode=partial(folders.decode_tiny_imagenet, files),
            files=files,
            identity=partial(fingerprints.of_files, files, kind="tiny-imagenet"),
        )
    class_folders = folders.class_folders(path)
    if class_folders:
        files = folders.files_below(class_folders)
        return Source(
            decode=partial(tables.decode_image_folder, class_folders),
            files=files,
            identity=partial(fingerprints.of_files, files, kind="imagefolder"),
        )
    raise DataError(
        f"folder '{path}' holds no data set; expected parquet files (train-*.parquet, "
        "test-*.parquet), IDX files, train/<class>/ and test/<class>/, or Tiny-ImageNet's tree."
    )


def _idx(folder: Path) -> Source:
    files = idx.idx_files(folder)
    return Source(
        decode=partial(idx.decode_idx, files),
        files=files,
        identity=partial(fingerprints.of_files, files, kind="idx"),
    )


def _digits_files() -> dict[str, Path]:
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "the package scikit-learn is missing; expected it for digits. Install `polyak[study]`."
        )
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    # Only saves the import where nothing changed, so another layout of theirs is no fault.
    return {"digits": path} if path.is_file() else {}


def _decode_digits(*, parity: bool) -> tuple[ImageSet, ImageSet]:
    """8×8 grey digits, and a test set that is the same for digits and their parity."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Theirs count from 0 to 16.
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    digit_n = torch.from_numpy(digits.target.astype(np.int64))
    order = stratified_order(digit_n, generator=torch.Generator().manual_seed(0))
    whole = ImageSet(
        images_nchw=torch.from_numpy(pixels).unsqueeze(1),
        labels_n=digit_n % 2 if parity else digit_n,
        classes=("even", "odd") if parity else tuple(str(d) for d in range(10)),
    )
    test, train = order[:_DIGITS_TEST_IMAGES], order[_DIGITS_TEST_IMAGES:]
    return whole.take(train.sort().values), whole.take(test.sort().values)
