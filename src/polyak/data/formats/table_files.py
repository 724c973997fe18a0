"""Finding the files of tables, by the names of their splits: parquet, CSV, JSON lines, Arrow."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polyak.data.formats import tables
from polyak.data.formats.columns import find_columns, holds_encoded
from polyak.data.formats.found import (
    Found,
    Reading,
    Wanted,
    by_split,
    roles,
    split_and_word,
    split_named,
)
from polyak.data.formats.walk import LITTER, listed
from polyak.errors import DataError

PARQUET = re.compile(r".*\.parquet", re.I)
_SHARD = re.compile(r"-(?P<number>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]+)?\.\w+$")

_TEXT: dict[str, tuple[re.Pattern[str], dict[str, Any]]] = {
    "csv": (re.compile(r".*\.csv", re.I), {"keep_default_na": False}),
    "tsv": (re.compile(r".*\.tsv", re.I), {"keep_default_na": False, "sep": "\t"}),
    "json": (re.compile(r".*\.(jsonl|ndjson)", re.I), {}),
    "arrow": (re.compile(r".*\.arrow", re.I), {}),
}
"""By kind, names of files and options of the builder of `datasets`. A class called NA is one."""

Files = dict[str, list[Path]]


def find_parquet(path: Path, wanted: Wanted) -> Found | None:
    """Parquet files: of one split each, in shards, in folders of splits, or one of all."""
    return _parquet(path, wanted, nameless=False)


def _parquet(path: Path, wanted: Wanted, *, nameless: bool) -> Found | None:
    found, notes = split_files(path, PARQUET, wanted, nameless=nameless)
    if not found:
        return None
    if wanted.image_column is None and _encoded(found["train"][0]):
        files = {f"{role}/{p.name}": p for role, paths in found.items() for p in paths}
        read = partial(_read, "parquet", found, wanted, notes)
        return Found(kind="parquet", files=files, read=read, columns=True)
    return _with_paths("parquet", found, wanted, notes, {}, root=path)


def find_text(path: Path, wanted: Wanted) -> Found | None:
    """CSV, TSV, JSON lines or Arrow files, such as labels beside a folder of pictures; or one file
    of any kind of table that is all images."""
    if whole := _parquet(path, wanted, nameless=True):
        return whole
    for kind, (pattern, options) in _TEXT.items():
        found, notes = split_files(path, pattern, wanted, nameless=True)
        if found:
            return _with_paths(kind, found, wanted, notes, options, root=path)
    return None


def find_saved(path: Path, wanted: Wanted) -> Found | None:
    """The folder of a `save_to_disk` of `datasets`."""
    whole = (path / "dataset_dict.json").is_file()
    single = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    if not (whole or single):
        return None
    splits = tables.load_saved(path)
    used, notes = tables.splits_by_role(splits, wanted, what=f"folder '{path}'")
    names = {role: next(n for n, s in splits.items() if s is split) for role, split in used.items()}
    homes = {role: path / name if whole else path for role, name in names.items()}
    return Found(
        kind="save_to_disk",
        # state.json holds a fingerprint that differs each time the same data is saved.
        files={
            f"{role}/{p.name}": p
            for role, home in homes.items()
            for p in listed(home)
            if p.is_file() and p.name != "state.json"
        },
        read=partial(
            tables.read_splits,
            used,
            wanted,
            place=lambda role, index: f"{role} image {index} (in '{homes[role]}')",
            bases={role: [path] for role in used},
            notes=notes,
        ),
        columns=True,
    )


def split_files(
    path: Path, pattern: re.Pattern[str], wanted: Wanted, *, nameless: bool
) -> tuple[Files, list[str]]:
    """Files by role, and what is left out; no files if there is none of the pattern.

    They are named like their split, in the folder itself or in one folder below, as in the hub's
    repositories; or lie in folders named like splits, as in what the hub converts.

    Args:
        path: A folder, or a file that is all images.
        pattern: Whole names of the files.
        wanted: Which splits are read.
        nameless: Whether one file, or one set of shards, without a split in its name is all images.

    Raises:
        DataError: if a split or a shard is missing, or several folders below have such files.
    """
    if path.is_file():
        if not nameless or not _fits(path, pattern):
            return {}, []
        return roles({"train": [path]}, wanted, what=f"'{path}', one file,", names=["train"]), []
    if not path.is_dir():
        return {}, []
    below = [p for p in listed(path) if p.is_dir() and p.name.lower() not in LITTER]
    homes = {home: _by_name(home, pattern) for home in (path, *below)}
    homes = {home: splits for home, splits in homes.items() if splits}
    in_folders = {home: _by_folder(home, pattern) for home in (path, *below)}
    # train/train-00000.parquet is named twice.
    inner = {
        file.parent for splits in in_folders.values() for files in splits.values() for file in files
    }
    homes = {home: splits for home, splits in homes.items() if home not in inner}
    homes |= {home: splits for home, splits in in_folders.items() if splits}
    if not homes and nameless and (found := _nameless(path, pattern)):
        homes = {path: {"train": found}}
    if len(homes) > 1:
        names = ", ".join(f"'{home}'" for home in homes)
        raise DataError(f"folder '{path}' holds several data sets; expected one of {names}.")
    for home, splits in homes.items():
        used = roles(splits, wanted, what=f"folder '{home}', by its {_ending(splits)} files,")
        for paths in used.values():
            _check_shards(paths)
        read = {file for files in splits.values() for file in files}
        others = [p.name for p in listed(home) if _fits(p, pattern) and p not in read]
        beside = [p.name for p in below if p != home] if home != path else []
        notes = [f"left out: '{name}', which names no split" for name in others]
        return used, [*notes, *(f"left out: '{name}', beside '{home.name}'" for name in beside)]
    return {}, []


def _by_name(home: Path, pattern: re.Pattern[str]) -> Files:
    """Files of a folder whose names name a split."""
    splits: Files = {}
    words: dict[str, tuple[str, str]] = {}
    for path in listed(home):
        split, word = split_and_word(_stem(path))
        if split is None or not _fits(path, pattern):
            continue
        earlier, name = words.setdefault(split, (word, path.name))
        if earlier != word:
            raise DataError(
                f"folder '{home}' has '{name}' and '{path.name}', two spellings of {split}; "
                "expected one. Put them together, or take one away."
            )
        splits.setdefault(split, []).append(path)
    return splits


def _by_folder(home: Path, pattern: re.Pattern[str]) -> Files:
    """Files in folders whose names name a split."""
    folders = {p.name: p for p in listed(home) if split_named(p.name) and p.is_dir()}
    inside = {name: [f for f in listed(p) if _fits(f, pattern)] for name, p in folders.items()}
    named = by_split((name for name, found in inside.items() if found), where=home)
    return {split: inside[name] for split, name in named.items()}


def _nameless(home: Path, pattern: re.Pattern[str]) -> list[Path]:
    files = [path for path in listed(home) if _fits(path, pattern)]
    if len(files) > 1 and not all(_SHARD.search(path.name) for path in files):
        raise DataError(
            f"folder '{home}' has {len(files)} files of one kind ('{files[0].name}', "
            f"'{files[1].name}', …); expected train, test or validation in their names. Rename "
            "them, or give one of them as the source."
        )
    return files


def _with_paths(
    kind: str,
    found: Files,
    wanted: Wanted,
    notes: Sequence[str],
    options: Mapping[str, Any],
    *,
    root: Path,
) -> Found:
    """Tables that may hold paths of pictures, which then are files of the source too."""
    builder = "csv" if kind == "tsv" else kind
    splits = tables.load_files(builder, found, **options)
    bases = {role: [paths[0].parent, root] for role, paths in found.items()}
    files = {f"{role}/{p.name}": p for role, paths in found.items() for p in paths}
    place = row_of_file(found)
    named = tables.path_columns(splits["train"], bases["train"])
    image, _ = find_columns(splits["train"].features, wanted.columns, paths=named)
    if image in named:
        for role, split in splits.items():
            if image not in split.features:
                continue
            where = partial(place, role)
            pictures = list(tables.paths_in(split, image, bases[role], where))
            files |= {f"{role}/pictures/{i}": p for i, p in enumerate(pictures)}
    read = partial(tables.read_splits, splits, wanted, place=place, bases=bases, notes=notes)
    return Found(kind=kind, files=files, read=read, columns=True)


def _read(kind: str, found: Files, wanted: Wanted, notes: Sequence[str]) -> Reading:
    splits = tables.load_files(kind, found)
    return tables.read_splits(splits, wanted, place=row_of_file(found), notes=notes)


def row_of_file(files: Mapping[str, Sequence[Path]]) -> Callable[[str, int], str]:
    """Names a row by its file and its number in it."""

    def place(role: str, index: int) -> str:
        row = index
        for path in files[role]:
            count = _rows(path) if len(files[role]) > 1 else None
            if count is None or row < count:
                break
            row -= count
        return f"{role} image {index} (row {row} of '{path}', counted from 0)"

    return place


def _rows(path: Path) -> int | None:
    if path.suffix != ".parquet":
        return None
    import pyarrow.parquet as parquet

    return int(parquet.read_metadata(path).num_rows)


def _encoded(path: Path) -> bool:
    """Whether a parquet file has a column of encoded pictures, or cannot be read at all."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        return any(holds_encoded(field.type) for field in parquet.read_schema(path))
    except (OSError, pa.ArrowInvalid):
        return True  # what is wrong with it is said when it is read


def _fits(path: Path, pattern: re.Pattern[str]) -> bool:
    return path.is_file() and pattern.fullmatch(path.name) is not None and path.name[0] != "."


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _ending(splits: Files) -> str:
    return next(iter(splits.values()))[0].suffix.lstrip(".")


def _check_shards(paths: Sequence[Path]) -> None:
    shards = [match for path in paths if (match := _SHARD.search(path.name))]
    expected = int(shards[0]["total"]) if shards else 0
    numbers = {match["number"] for match in shards}
    if shards and (len(paths) != expected or len(numbers) != expected):
        raise DataError(
            f"folder '{paths[0].parent}' has {len(paths)} of the {expected} files "
            f"'{paths[0].name}' …; expected all. Copy the others there."
        )
