"""JSON records with checksums: what was altered, cut or nested without end is never believed.

A record that is one JSON object holds a SHA-256 of its other members, under "sha256". Records of
many lines have theirs elsewhere, one a line. Records of before 30 November 2026 have none, and are
read without. Checksums find damage, not malice: who can write the file can write them too.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from polyak.errors import printable
from polyak.files import read_json, write_json

SUM = "sha256"


def write_checked(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object with its checksum, atomically."""
    # As it will be read: tuples are lists in JSON, and numbers as keys are text.
    plain = json.loads(json.dumps(record))
    write_json(path, {**plain, SUM: _digest(plain)})


def read_checked(path: Path) -> dict[str, Any]:
    """The JSON object that `write_checked` wrote.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds no JSON object, or another one than was written.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise ValueError(f"it holds {printable(repr(record))[:40]} where a JSON object is expected")
    if SUM not in record and not _lost_its_name(record):
        return record
    if record.pop(SUM, None) != _digest(record):
        raise ValueError(
            f"it is not as it was written, by its checksum; whoever changed it on purpose removes "
            f'its member "{SUM}"'
        )
    return record


def line_sums(text: str) -> list[str]:
    """A checksum for each line of a record of many: 16 hexadecimal digits of its SHA-256."""
    return [hashlib.sha256(line.encode()).hexdigest()[:16] for line in text.splitlines()]


def first_difference(text: str, sums: list[str]) -> int | None:
    """The first line, from 1, that is not as it was when `sums` was made; None if all are."""
    found = line_sums(text)
    for number, (got, expected) in enumerate(zip(found, sums, strict=False), start=1):
        if got != expected:
            return number
    return None if len(found) == len(sums) else min(len(found), len(sums)) + 1


def _lost_its_name(record: dict[str, Any]) -> bool:
    """Whether the checksum stands under another name: then that was altered."""
    sums = [key for key, value in record.items() if isinstance(value, str) and len(value) == 64]
    return any(
        record[key] == _digest({name: x for name, x in record.items() if name != key})
        for key in sums
    )


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
