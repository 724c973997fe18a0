"""Pictures one by one to uint8 arrays of one size; whatever is odd is named by its place.

Shape suffixes: n images, c channels, h height, w width.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from polyak.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = np.ndarray[Any, Any]
Raw = bytes | Path | Pixels | None
"""An encoded picture, its file, or its pixels: uint8, shape (h, w) or (h, w, c)."""

# More bits than uint8 holds; PIL would clip them without a word.
_TOO_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112
_TRANSPARENT = "transparency, which is left out: the network sees the colour under it"
_FRAMES = "several frames, of which the first is read"
_DEEP = "16 bits a channel, of which the upper 8 are read"


class PictureStack:
    """Collects the pictures of a whole data set, which must share one size or are resized.

    They become RGB, unless every one of them is 8-bit grey (mode L): then one channel.

    Args:
        resize: Side of the square to bring every picture to, in pixels; None: as they are.
        how: shorter-side-crop or squash.
    """

    def __init__(self, *, resize: int | None = None, how: str = "shorter-side-crop") -> None:
        self._resize, self._how = resize, how
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._example: dict[tuple[int, int], str] = {}
        self._all_grey = True
        self._oddities: Counter[str] = Counter()

    @property
    def all_grey(self) -> bool:
        """Whether every picture so far is 8-bit grey."""
        return self._all_grey

    def add(
        self,
        pictures: Iterable[Raw],
        n: int,
        *,
        place: Callable[[int], str],
        chosen: Iterable[int] | None = None,
        on_picture: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Decode `n` pictures to uint8 (n, 3, h, w); call `finish` when all parts are in.

        Args:
            pictures: All of a split.
            n: How many of them to decode.
            place: Where a picture lies, for messages.
            chosen: Which, rising; the others are passed over. None: the first n.
            on_picture: Called after each that was decoded.

        Raises:
            DataError: that names the place of a picture that is missing, damaged, too large or
                too deep.
        """
        images_nchw: Pixels | None = None
        source = enumerate(pictures)
        for row, wanted in enumerate(range(n) if chosen is None else chosen):
            index, raw = next(source)
            while index < wanted:
                index, raw = next(source)
            picture = self._decoded(raw, index, place)
            if picture.size not in self._sizes:
                self._example[picture.size] = place(index)
            self._sizes[picture.size] += 1
            self._all_grey &= picture.mode == "L"
            picture = self._reshaped(picture.convert("RGB"))
            if images_nchw is None:
                images_nchw = np.empty((n, 3, picture.height, picture.width), np.uint8)
            # Others are only counted, for the message.
            if picture.size == images_nchw.shape[:1:-1]:
                images_nchw[row] = np.asarray(picture).transpose(2, 0, 1)
            on_picture()
        assert images_nchw is not None, "a split without images is refused before"
        return torch.from_numpy(images_nchw)

    def finish(self, parts_nchw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts with as many channels as the whole needs; a DataError if sizes differ."""
        if len(self._sizes) > 1 and self._resize is None:
            common = self._sizes.most_common(3)
            seen = ", ".join(
                f"{w}×{h} ({count} times, such as {self._example[w, h]})"
                for (w, h), count in common
            )
            raise DataError(
                f"the images have {len(self._sizes)} sizes, {seen}"
                f"{', …' if len(self._sizes) > 3 else ''}; expected one size. Give resize, such "
                "as 32 (`--data.resize 32`), which cuts the middle out of the shorter side's "
                "square; resize_how squash keeps all of the picture instead."
            )
        # Where resizing comes first, grey pictures went through RGB: their channels are equal.
        if not self._all_grey:
            return dict(parts_nchw)
        return {name: part[:, :1].clone() for name, part in parts_nchw.items()}

    def notes(self) -> list[str]:
        """What of the pictures was not read as it is, a sentence each."""
        found = [f"{count} images have {what}" for what, count in sorted(self._oddities.items())]
        if self._resize is not None and set(self._sizes) != {(self._resize, self._resize)}:
            found.append(
                f"{self._sizes.total()} images of {len(self._sizes)} sizes are resized to "
                f"{self._resize}×{self._resize} ({self._how})"
            )
        return found

    def _decoded(self, raw: Raw, index: int, place: Callable[[int], str]) -> "Image":
        if raw is None:
            raise DataError(f"{place(index)} is empty; expected an image in every row.")
        try:
            picture, odd = decoded(raw)
        # Whatever a decoder makes of a file that is not what it looks like: OSError, SyntaxError,
        # struct.error, DecompressionBombError and more.
        except Exception as error:
            reason = str(error) or type(error).__name__
            if "decompression bomb" in reason:
                raise DataError(
                    f"{place(index)} is too large ({reason}); expected a picture of fewer "
                    "pixels. Make it smaller before."
                ) from error
            raise DataError(
                f"{place(index)} cannot be decoded ({reason}); expected a whole picture. Copy it "
                "again."
            ) from error
        if picture.mode in _TOO_DEEP:
            raise DataError(
                f"{place(index)} has mode {picture.mode}; expected 8 bits for each channel. "
                "Convert such pictures before, so that the way of scaling is yours, or read them "
                "with a function of your own (`file.py:load`, docs/data.md)."
            )
        self._oddities.update(odd)
        return picture

    def _reshaped(self, picture: "Image") -> "Image":
        if self._resize is None:
            return picture
        return resized(picture, self._resize, how=self._how)


def decoded(raw: bytes | Path | Pixels) -> "tuple[Image, list[str]]":
    """One picture as it is to be displayed, and what of it is left out.

    EXIF's orientation is applied. Transparency, further frames and bits beyond the eighth are
    left out, and said.
    """
    import PIL.Image
    import PIL.ImageOps

    if isinstance(raw, np.ndarray):
        squeezed = raw[:, :, 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw
        return PIL.Image.fromarray(np.ascontiguousarray(squeezed)), []
    odd = []
    with PIL.Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw) as opened:
        deep = opened.mode in ("RGB", "RGBA", "LA") and ";16" in str(getattr(opened, "tile", ""))
        odd += [_DEEP] if deep else []
        odd += [_FRAMES] if getattr(opened, "is_animated", False) else []
        opened.load()
        picture: Image = opened
        if picture.getexif().get(_ORIENTATION) is not None:
            picture = PIL.ImageOps.exif_transpose(picture)
        if picture.mode not in _TOO_DEEP and picture.has_transparency_data:
            whole = picture.convert("RGBA")
            lowest, _ = whole.getchannel("A").getextrema()
            odd += [_TRANSPARENT] if lowest < 255 else []  # type: ignore[operator] # of one band
            picture = whole.convert("RGB")
        return picture, odd


def resized(picture: "Image", side: int, *, how: str) -> "Image":
    """A square picture, bicubic with antialiasing.

    Args:
        picture: Of mode RGB or L.
        side: In pixels.
        how: shorter-side-crop scales the shorter side and cuts the middle out; squash scales both
            sides by their own factor.
    """
    import PIL.Image
    import PIL.ImageOps

    if picture.size == (side, side):
        return picture
    bicubic = PIL.Image.Resampling.BICUBIC
    if how == "squash":
        return picture.resize((side, side), bicubic)
    # It cuts to the shape of the target around the centre, then scales: the same in one step.
    return PIL.ImageOps.fit(picture, (side, side), bicubic)
