"""From files of text to a data set of windows, and from windows to samples.

In a data set windows lie as images of one channel do, (n, 1, context + 1, 1), and the label of each
is its file. A run takes the first `context` bytes for the image, whose normalisation changes
nothing, and for labels the next byte at every position: a position is a sample, a byte a class.

Shape suffixes: n windows, c channels, h positions, w 1.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from polyak.data.config import Limits, SourceConfig
from polyak.data.images import DataSet, ImageSet
from polyak.data.labels import generator_for, limited
from polyak.data.text.files import Piece, cut, read_windows
from polyak.errors import DataError

BYTES = tuple(f"{byte:02x}" for byte in range(256))
"""Names of the classes: bytes in hexadecimal digits."""
TEST_SPLIT = 0.1
"""Share of the text that is the test set, where nothing else is asked for."""
TEST_POSITIONS = 20_000
"""Of the test set and of the hold-out, where no limit says otherwise: every arm keeps its 256
logits of each."""


def decode_text(files: Mapping[str, Path], config: SourceConfig, limits: Limits) -> DataSet:
    """The data set of these files, of which only the windows are read that limits keep.

    Raises:
        DataError: if a file is binary or cannot be read, or if there is too little text.
    """
    pieces, notes = cut(files, config.context)
    files_n = torch.arange(len(pieces)).repeat_interleave(
        torch.tensor([piece.windows for piece in pieces])
    )
    share = TEST_SPLIT if config.test_split is None else config.test_split
    tested_n = draw_files(
        files_n, share=share, generator=generator_for("test files", config.test_split_seed)
    )
    if not bool(tested_n.any()) or bool(tested_n.all()):
        raise DataError(
            f"the text has {len(files_n)} windows of {config.context} bytes in {len(pieces)} "
            "files; expected enough for a test set by file. Give more text or a shorter context."
        )
    numbers_n = torch.arange(len(files_n))
    train, test = (
        _set(pieces, files_n, numbers_n[part_n], limit, config.context)
        for part_n, limit in ((~tested_n, limits.train), (tested_n, limits.test))
    )
    if (train.places_n is None) != (test.places_n is None):
        train, test = (_with_places(part) for part in (train, test))
    count = int(torch.bincount(files_n[tested_n]).count_nonzero())
    notes.append(f"{count} of {len(pieces)} files are the test set")
    return DataSet(train=train, test=test, text=True, notes=tuple(notes))


def draw_files(files_n: Tensor, *, share: float, generator: Generator) -> Tensor:
    """Which windows are in the files that are drawn for a part: whole files, at most a share.

    In a random order of the files each is taken that still fits in; if none fits, the smallest.

    Args:
        files_n: Each window's file, int64, shape (n,).
        share: Of the windows, in (0, 1).
        generator: Source of the order.

    Returns:
        Boolean, shape (n,).
    """
    counts = torch.bincount(files_n)
    there = counts.nonzero().flatten()
    room, drawn = share * len(files_n), []
    for file in there[torch.randperm(len(there), generator=generator)].tolist():
        if counts[file] <= room:
            drawn.append(file)
            room -= int(counts[file])
    if not drawn and len(there):
        drawn = [int(there[counts[there].argmin()])]
    is_drawn = torch.zeros(len(counts), dtype=torch.bool)
    is_drawn[drawn] = True
    return is_drawn[files_n]


def windows_tested(limit: int | None, context: int) -> int:
    """Windows of a test set, and of a hold-out: a limit, else as many as `TEST_POSITIONS` take."""
    return -(-TEST_POSITIONS // context) if limit is None else limit


def inputs(windows_nchw: Tensor) -> Tensor:
    """What a network sees of windows, uint8, shape (n, 1, context, 1)."""
    return windows_nchw[:, :, :-1]


def next_bytes(windows_nchw: Tensor) -> Tensor:
    """The byte after each position, int64, window after window: shape (n·context,)."""
    return windows_nchw[:, :, 1:].flatten().long()


def _set(
    pieces: list[Piece], files_n: Tensor, part_n: Tensor, limit: int | None, context: int
) -> ImageSet:
    """The windows of a part, at least those that a limit keeps."""
    labels_n = files_n[part_n]
    partly = limit is not None and limit < len(labels_n)
    kept_n = limited(labels_n, limit)
    windows = torch.from_numpy(read_windows(pieces, part_n[kept_n].numpy(), context))
    return ImageSet(
        images_nchw=windows[:, None, :, None],
        labels_n=labels_n,
        classes=tuple(piece.name for piece in pieces),
        places_n=kept_n if partly else None,
    )


def _with_places(part: ImageSet) -> ImageSet:
    if part.places_n is not None:
        return part
    return replace(part, places_n=torch.arange(len(part)))
