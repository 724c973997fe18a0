"""From the name of a source to its files, its identity and the way to decode it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from polyak.data import fingerprints
from polyak.data.config import EVERYTHING, HUB_NAMES, NAMES, TEXT, Limits, SourceConfig, name_of
from polyak.data.decoding import OnDecoded, assemble
from polyak.data.decoding import decode as decode_reading
from polyak.data.formats import idx, tables
from polyak.data.formats.found import Found, Reading, Split, Wanted, array_split, refuse_test_split
from polyak.data.formats.layouts import find_layout
from polyak.data.images import DataSet, ImageSet
from polyak.data.labels import stratified_order
from polyak.data.text.files import find_files
from polyak.data.text.windows import decode_text
from polyak.errors import ConfigError, DataError, unknown
from polyak.userfile import load_function, parse_reference

_DIGITS_TEST_IMAGES = 360
_WINDOWS = re.compile(r"[A-Za-z]:[\\/].*|.*\\.*")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source that was found but not yet decoded."""

    decode: Callable[[Limits, OnDecoded | None], DataSet]
    """Training and test set, of which not more need be decoded than the limits say."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """Every file that the result depends on, by name; empty where that is not known."""

    reading: str = ""
    """Where files alone do not say it: how they are read."""

    identity: Callable[[], str] | None = None
    """Fingerprint without decoding. None: it is that of the decoded arrays."""


def find(config: SourceConfig) -> Source:
    """The source that a configuration names, from the outside: nothing is decoded yet.

    Raises:
        DataError: if it is no known name, no path and not owner/name, or a part is missing.
    """
    if config.is_text:
        return _text(config)
    reference = parse_reference(config.source)
    if reference:
        _refuse_columns(config)
        return Source(decode=lambda *_: _decode_user_file(*reference, config))
    found = _find(config.source, _wanted(config))
    if not found.columns:
        _refuse_columns(config)
    return Source(
        decode=lambda limits, on_decoded: decode_reading(
            found.read(), config, limits=limits, on_decoded=on_decoded
        ),
        files=found.files,
        reading=_reading(found, config),
        identity=_identity(found, config),
    )


def decode(config: SourceConfig) -> DataSet:
    """Decode a source, without any cache, limit, noise or split.

    Raises:
        ConfigError, DataError, FileError: if the settings or the data are at fault.
    """
    faults = config.faults()
    if faults:
        raise ConfigError.of("data", faults)
    source = find(config)
    dataset = source.decode(EVERYTHING, None)
    fingerprint = source.identity() if source.identity else fingerprints.of_arrays(dataset)
    dataset = replace(dataset, name=name_of(config.source), fingerprint=fingerprint)
    dataset.check()
    return dataset


def decode_user_file(path: Path, function: str) -> DataSet | ImageSet:
    """Run the function, which takes nothing and returns a DataSet, (train, test), or all images
    as one ImageSet.

    Raises:
        DataError: if file or function is missing or the result is something else. What the
            function itself raises is passed on.
    """
    made = load_function(path, function, what="source", error=DataError)()
    if isinstance(made, DataSet | ImageSet):
        return made
    if isinstance(made, tuple) and [type(part) for part in made] == [ImageSet, ImageSet]:
        return DataSet(train=made[0], test=made[1])
    raise DataError(
        f"'{path}:{function}' returned a {type(made).__name__}; "
        "expected a polyak.data.DataSet, a tuple (train, test) of ImageSets, or one ImageSet of "
        "all images with test_split."
    )


def _decode_user_file(path: Path, function: str, config: SourceConfig) -> DataSet:
    if config.resize is not None:
        raise DataError(
            f"resize is {config.resize!r}, and '{path}:{function}' gives finished images; expected "
            "resize None. Resize them in that function."
        )
    made = decode_user_file(path, function)
    if isinstance(made, ImageSet) and config.test_split is None:
        raise DataError(
            f"'{path}:{function}' returned one ImageSet; expected a test set too. Return "
            "(train, test), or give test_split, such as 0.2 (`--data.test-split 0.2`)."
        )
    if isinstance(made, ImageSet):
        made.check("train")
        return assemble({"train": made}, config)
    if config.test_split is not None:
        raise DataError(
            f"test_split is given, and '{path}:{function}' returned a test set; expected "
            "test_split None. Leave it out."
        )
    return made


def _text(config: SourceConfig) -> Source:
    files = find_files(config.source.removeprefix(TEXT))
    options = config.decoding()
    return Source(
        decode=lambda limits, _on_decoded: decode_text(files, config, limits),
        files=files,
        reading=f"text{sorted(options.items())}",
        identity=partial(fingerprints.of_files, files, kind="text", options=options),
    )


def _wanted(config: SourceConfig) -> Wanted:
    return Wanted(
        image_column=config.image_column,
        label_column=config.label_column,
        test_split=config.test_split is not None,
        validation=config.validation == "holdout",
    )


def _find(source: str, wanted: Wanted) -> Found:
    if source in ("digits", "digits-parity"):
        return _digits(parity=source == "digits-parity", wanted=wanted)
    if source == "fashion-mnist":
        return idx.found_in(idx.DEBIAN_FOLDER, wanted)
    path = Path(source).expanduser()
    if source not in HUB_NAMES and path.exists():
        return find_layout(path, wanted)
    if _WINDOWS.fullmatch(source):
        raise DataError(f"source is '{source}'; expected a folder or file there.")
    hub_name = HUB_NAMES.get(source, source)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", hub_name):
        return tables.find_hub(hub_name, wanted)
    if "/" in source:
        raise DataError(f"source is {source!r}; expected a folder there.")
    raise DataError(
        unknown("source", source, NAMES) + " Or give a folder, owner/name of the hub, or "
        "file.py:load."
    )


def _identity(found: Found, config: SourceConfig) -> Callable[[], str] | None:
    columns = (config.image_column, config.label_column) if found.columns else ()
    options = config.decoding()
    if found.identity is not None:
        text = found.identity
        return lambda: fingerprints.of_text(
            text(), kind=found.kind, columns=columns, options=options
        )
    if found.kind in _BY_ARRAYS:
        return None
    return partial(
        fingerprints.of_files, found.files, kind=found.kind, columns=columns, options=options
    )


def _reading(found: Found, config: SourceConfig) -> str:
    """How files are read, where it is not as earlier versions read the same files."""
    options = ",".join(f"{name}={value}" for name, value in config.decoding().items())
    return f"{'' if found.kind in _AS_EVER else found.kind}{options}"


def _refuse_columns(config: SourceConfig) -> None:
    for name in ("image_column", "label_column"):
        column = getattr(config, name)
        if column is not None:
            raise DataError(
                f"{name} is {column!r}; expected None, as source {config.source!r} is not a table."
            )


_BY_ARRAYS = ("digits",)
_AS_EVER = ("digits", "idx", "parquet", "tiny-imagenet", "imagefolder", "hub")
"""Kinds of the first version, whose files name nothing else."""


def _digits(*, parity: bool, wanted: Wanted) -> Found:
    refuse_test_split(wanted, "digits is fixed")
    read = partial(_read_digits, parity=parity)
    return Found(kind="digits", read=read, files=_digits_files())


def _digits_files() -> dict[str, Path]:
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "the package scikit-learn is missing; expected it for digits. Install `polyak[study]`."
        )
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    # Only saves the import where nothing changed, so another layout of theirs is no fault.
    return {"digits": path} if path.is_file() else {}


def _read_digits(*, parity: bool) -> Reading:
    """8×8 grey digits, and a test set that is the same for digits and their parity."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Theirs count from 0 to 16.
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    digit_n = digits.target.astype(np.int64)
    order = stratified_order(
        torch.from_numpy(digit_n), generator=torch.Generator().manual_seed(0)
    ).numpy()
    labels = digit_n % 2 if parity else digit_n

    def part(role: str, index: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Split:
        chosen = np.sort(index)
        return array_split(pixels[chosen], labels[chosen], role)

    return Reading(
        splits={
            "train": part("train", order[_DIGITS_TEST_IMAGES:]),
            "test": part("test", order[:_DIGITS_TEST_IMAGES]),
        },
        classes=("even", "odd") if parity else tuple(str(d) for d in range(10)),
    )
