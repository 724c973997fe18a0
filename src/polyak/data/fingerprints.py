"""What identifies data: SHA-256 over files or over decoded arrays, never over where they lie."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from polyak import checksums
from polyak.data.images import DataSet

# Raise it when the same source would be decoded to other arrays than before.
_DECODING = 1


Options = Mapping[str, object]
"""Settings of the decoding that are not as they always were."""


def of_files(
    files: Mapping[str, Path],
    *,
    kind: str,
    columns: tuple[str | None, ...] = (),
    options: Options | None = None,
) -> str:
    """SHA-256 over names, sizes and contents of the files, and over how they are read.

    Args:
        files: Name of each file within the source, and where it lies.
        kind: How they are decoded, such as "parquet".
        columns: Columns that the user named.
        options: Settings of the decoding beside them.
    """
    listing = [
        (name, path.stat().st_size, checksums.of_file(path)) for name, path in sorted(files.items())
    ]
    return _of_json([_DECODING, kind, list(columns), listing, *_given(options)])


def of_text(
    text: str,
    *,
    kind: str,
    columns: tuple[str | None, ...] = (),
    options: Options | None = None,
) -> str:
    """SHA-256 of an identity that another library gives, and of how the data is read."""
    return _of_json([_DECODING, kind, list(columns), text, *_given(options)])


def of_arrays(dataset: DataSet) -> str:
    """SHA-256 over decoded images, labels and class names, and over where the hold-out is."""
    digest = hashlib.sha256()
    if dataset.holdout_images:
        digest.update(_of_json(dataset.holdout_images).encode())
    for part in (dataset.train, dataset.test):
        digest.update(_of_json([part.classes, list(part.images_nchw.shape)]).encode())
        digest.update(part.images_nchw.contiguous().numpy().data)
        digest.update(part.labels_n.contiguous().numpy().data)
    return digest.hexdigest()


def of_stats(files: Mapping[str, Path], *, reading: str = "") -> str:
    """SHA-256 over names, sizes and times of the files: cheap, and other after any change.

    Args:
        files: Name of each file within the source, and where it lies.
        reading: How they are read, where the files alone do not say it.
    """
    stats = [(name, path.stat()) for name, path in sorted(files.items())]
    listing = [(n, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for n, s in stats]
    return _of_json([_DECODING, listing, *([reading] if reading else [])])


def _given(options: Options | None) -> list[Options]:
    # Nothing where there is none, so that fingerprints of before these settings stay.
    return [options] if options else []


def _of_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
