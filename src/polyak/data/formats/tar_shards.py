"""Tar files in webdataset's form: files of one name with several endings are one sample."""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from polyak.data.formats.found import OWN_FUNCTION, Found, Reading, Split, Wanted
from polyak.data.formats.table_files import split_files
from polyak.data.formats.walk import PICTURE_ENDINGS
from polyak.errors import DataError, FileError, few

_ENDINGS = re.compile(r".*\.tar(\.gz)?|.*\.tgz", re.I)
_LABELS = ("cls", "json")


def find(path: Path, wanted: Wanted) -> Found | None:
    """Shards that are named like splits, or lie in folders that are; or one file of all."""
    found, notes = split_files(path, _ENDINGS, wanted, nameless=True)
    if not found:
        return None
    files = {f"{role}/{p.name}": p for role, paths in found.items() for p in paths}
    return Found(kind="tar shards", files=files, read=partial(read_shards, found, notes))


def read_shards(files: Mapping[str, Sequence[Path]], notes: Sequence[str] = ()) -> Reading:
    """Labels of all samples, from .cls or the label of .json; pictures when they are asked for."""
    splits = {role: _split(paths, role) for role, paths in files.items()}
    return Reading(splits=splits, notes=notes)


def _split(paths: Sequence[Path], what: str) -> Split:
    labels: list[int | str] = []
    places: list[str] = []
    for path in paths:
        for key, sample in _samples(path, _LABELS):
            labels.append(_label(sample, f"sample '{key}' of '{path}'"))
            places.append(f"{what} image {len(places)} ('{key}' of '{path}')")
    if len({type(label) for label in labels}) > 1:
        labels = [str(label) for label in labels]

    def pictures() -> Iterator[bytes]:
        for path in paths:
            for _, sample in _samples(path, ()):
                yield next(iter(sample.values()))

    return Split(labels=np.array(labels), pictures=pictures, place=places.__getitem__)


def _samples(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and parts of each sample, in the order of the file: those wanted, or its picture."""
    samples: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not member.isfile() or not ending or name.startswith("."):
                    continue
                sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
                last = f".{ending.lower()}"[f".{ending.lower()}".rindex(".") :]
                taken = ending.lower() in wanted if wanted else last in PICTURE_ENDINGS
                content = archive.extractfile(member) if taken else None
                if last in PICTURE_ENDINGS:
                    sample.setdefault("picture", b"")
                if content is not None:
                    _put(sample, ending.lower() if wanted else "picture", content.read(), name)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise FileError(f"file '{path}' is a damaged tar file ({error}); copy it again.") from error
    without = [key for key, sample in samples.items() if "picture" not in sample]
    if without:
        raise DataError(
            f"file '{path}' has {len(without)} samples without one picture ({few(without)}); "
            f"expected a picture and a .cls or .json of one name. {OWN_FUNCTION}"
        )
    yield from samples.items()


def _put(sample: dict[str, bytes], part: str, content: bytes, name: str) -> None:
    if sample.get(part):
        raise DataError(f"'{name}' is the second picture of its sample; expected one.")
    sample[part] = content


def _label(sample: Mapping[str, bytes], what: str) -> int | str:
    """The class of a sample: a number where it is one."""
    if "cls" in sample:
        text = sample["cls"].decode(errors="replace").strip()
        return int(text) if re.fullmatch(r"-?\d+", text) else text
    try:
        content = json.loads(sample.get("json", b"null"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} has a .json that is none ({error}); expected JSON.") from error
    for name in ("label", "cls", "class"):
        if isinstance(content, dict) and isinstance(content.get(name), int | str):
            return content[name]  # type: ignore[no-any-return] # just looked at
    raise DataError(
        f"{what} has no label; expected a .cls, or a .json with label, cls or class. {OWN_FUNCTION}"
    )
