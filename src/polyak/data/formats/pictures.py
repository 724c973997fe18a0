"""Pictures that PIL has decoded, stacked into one uint8 array.

Shape suffixes: n images, c channels, h height, w width.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from polyak.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# More bits than uint8 holds; PIL would clip them without a word.
_TOO_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class PictureStack:
    """Collects the pictures of a whole data set, which must share one size.

    They become RGB, unless every one of them is 8-bit grey (mode L): then one channel.
    """

    def __init__(self) -> None:
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._all_grey = True

    def add(self, pictures: Iterable["Image | None"], n: int, *, what: str) -> Tensor:
        """Decode `n` pictures to uint8 (n, 3, h, w); call `finish` when all parts are in."""
        images_nchw: np.ndarray[Any, Any] | None = None
        source = iter(pictures)
        for index in range(n):
            picture = _next(source, f"{what} image {index}")
            self._sizes[picture.size] += 1
            self._all_grey &= picture.mode == "L"
            if images_nchw is None:
                images_nchw = np.empty((n, 3, picture.height, picture.width), np.uint8)
            # Others are only counted, for the message.
            if picture.size == images_nchw.shape[:1:-1]:
                images_nchw[index] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
        if images_nchw is None:
            raise DataError(f"{what} has 0 images; expected at least 1.")
        return torch.from_numpy(images_nchw)

    def finish(self, *parts_nchw: Tensor) -> tuple[Tensor, ...]:
        """The parts with as many channels as the whole needs; a DataError if sizes differ."""
        if len(self._sizes) > 1:
            common = self._sizes.most_common(3)
            seen = ", ".join(f"{w}×{h} ({count} times)" for (w, h), count in common)
            raise DataError(
                f"the images have {len(self._sizes)} sizes, {seen}"
                f"{', …' if len(self._sizes) > 3 else ''}; expected one size. "
                "Resize them before, so that the way of resizing is yours."
            )
        return tuple(part[:, :1].clone() for part in parts_nchw) if self._all_grey else parts_nchw


def opened(paths: Iterable[Path]) -> Iterable["Image"]:
    """The pictures of image files, decoded one after another."""
    import PIL.Image

    for path in paths:
        with PIL.Image.open(path) as picture:
            picture.load()
            yield picture


def _next(source: Any, what: str) -> "Image":
    try:
        picture: Image | None = next(source)
    # PIL raises SyntaxError for some broken PNG files.
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{what} cannot be decoded ({error}); copy it again.") from error
    if picture is None:
        raise DataError(f"{what} is empty; expected an image in every row.")
    if picture.mode in _TOO_DEEP:
        raise DataError(f"{what} has mode {picture.mode}; expected 8 bits for each channel.")
    return picture
