"""What a file of weights says about itself, and whether its content is what was written.

A record is a JSON object in the metadata of a safetensors file:

    format    number of this layout
    weights   name → key of its state dict → tensor in the file
    sha256    tensor in the file → checksum of its dtype, shape and bytes
    manifest  what the weights are

It has a checksum of its own beside it. Checksums find damage, not malice: who can write the
file can write them too.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from polyak import checksums
from polyak.averaging.files.file_format import Path
from polyak.errors import FileError, one_line, quote
from polyak.tensor_files import damaged

FORMAT = 1
RECORD, RECORD_CHECKSUM = "polyak", "polyak_sha256"


def metadata_of(
    index: Mapping[str, Mapping[str, str]],
    stored: Mapping[str, Tensor],
    manifest: Mapping[str, Any],
) -> dict[str, str]:
    """The metadata of a file that holds `stored`.

    Args:
        index: Name → key of its state dict → tensor in `stored`.
        stored: The tensors of the file.
        manifest: JSON values.
    """
    record = json.dumps(
        {
            "format": FORMAT,
            "weights": index,
            "manifest": manifest,
            "sha256": checksums.of_tensors(stored),
        }
    )
    return {RECORD: record, RECORD_CHECKSUM: _digest(record)}


def own_counts(history: Mapping[str, Any]) -> dict[str, Any]:
    """What the bank's counts do not tell of each average: when it joined, what it has taken in.

    Nothing of a bank all of whose averages began with it and whose updates came on time.
    """
    begun = history.get("begun")
    on_time = history["position"] == history["updates"] * history["every"]
    if on_time and not (begun or history["skipped"]):
        return {}
    return {**({"begun": begun} if begun else {}), "folded": history["folded"]}


def verify_record(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The record in `metadata`, once it, its checksum and those of all `tensors` agree.

    Raises:
        FileError: naming the file, and the tensors that are not as they were written.
    """
    record = parse_record(path, metadata)
    verify_names(path, record, tensors)
    verify_tensors(path, record, tensors)
    return record


def verify_names(path: Path, record: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuse a file that has not the tensors its record tells of.

    Raises:
        FileError: naming them.
    """
    sums = record["sha256"]
    if differing := sums.keys() ^ set(names):
        raise damaged(path, f"tensors are missing or unknown: {quote(differing)}")
    named = {full for keys in record["weights"].values() for full in keys.values()}
    if not named <= sums.keys():
        raise damaged(path, f"{quote(named - sums.keys())} are named but not in it")


def verify_tensors(path: Path, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose values are not those that were written.

    Raises:
        FileError: naming them.
    """
    found = checksums.of_tensors(tensors)
    altered = [name for name, checksum in found.items() if checksum != record["sha256"][name]]
    if altered:
        raise damaged(path, f"the values of {quote(altered)} are not those that were written")


def parse_record(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The record in `metadata`, once it and its checksum agree; the tensors are not read.

    Raises:
        FileError: naming the file.
    """
    text = metadata[RECORD]
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its manifest is no JSON: {one_line(error)}") from error
    number = record.get("format") if isinstance(record, dict) else None
    if type(number) is int and number > FORMAT:
        raise FileError(
            f"{os.fspath(path)} has format {number}; expected {FORMAT} or lower. "
            "Read it with the version of polyak that wrote it, or a later one."
        )
    if metadata.get(RECORD_CHECKSUM) != _digest(text):
        raise damaged(path, "its manifest is not the one that was written")
    if number != FORMAT or not _well_formed(record):
        raise damaged(path, "its manifest lacks what polyak.save writes")
    whole: dict[str, Any] = record
    return whole


def _well_formed(record: Mapping[str, Any]) -> bool:
    weights = record.get("weights")
    return (
        isinstance(record.get("manifest"), dict)
        and _is_text(record.get("sha256"))
        and isinstance(weights, dict)
        and all(_is_text(keys) for keys in weights.values())
    )


def _is_text(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def dtypes(state: Mapping[str, Tensor]) -> str:
    """The dtypes of the floating-point tensors of a state dict, such as "float32"."""
    found = {str(x.dtype) for x in state.values() if x.is_floating_point() or x.is_complex()}
    return ", ".join(sorted(name.removeprefix("torch.") for name in found))


def torch_version() -> str:
    """The running torch's version as plain text."""
    return str(torch.__version__)
