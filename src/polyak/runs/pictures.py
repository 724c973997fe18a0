"""Pictures of a user as the uint8 images that a run's networks were trained on.

Shape suffixes: c channels, h height, w width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from polyak.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Resize = Literal["shorter-side-crop", "squash"]
"""shorter-side-crop: the shorter side gets the size, and the middle of the longer one is taken.
squash: both sides get the size, whatever that does to the proportions."""

_TOO_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of more than 8 bits, which it would clip in silence."""
_MODES = {1: "L", 3: "RGB"}


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are given, and the pictures below folders, sorted, in the order of `paths`.

    In a folder files are pictures whose ending Pillow knows; hidden files and folders are left
    out.

    Raises:
        ConfigError: for a path that is not there, or a folder without a picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = list(_pictures_below(path))
            if not below:
                raise ConfigError(
                    f"folder '{path}' has no picture; expected files such as .png or .jpg, there "
                    "or in folders below."
                )
            found += below
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"image is '{path}'; expected a file or a folder there.")
    return found


def read_picture(
    path: Path, image_shape: tuple[int, int, int], *, resize: Resize | None = None
) -> Tensor:
    """A picture as uint8, shape (c, h, w): turned as its EXIF says, grey or RGB as wanted.

    Args:
        path: Of a file that Pillow reads, of any mode of 8 bits or fewer. Of a transparent one
            the colours under the transparency are taken.
        image_shape: Channels (1 grey, 3 RGB), height and width.
        resize: How to bring a picture of another size to that; None refuses it. Bilinear, with
            antialiasing.

    Raises:
        DataError: that names the file, if it cannot be decoded, is too deep or of another size.
    """
    import PIL.Image
    import PIL.ImageOps

    channels, height, width = image_shape
    if channels not in _MODES:
        raise ConfigError(
            f"the network takes {channels} channels; expected 1 or 3, as pictures have. Use "
            "polyak.runs.load(…).predict with tensors."
        )
    try:
        with PIL.Image.open(path) as file:
            picture = PIL.ImageOps.exif_transpose(file)
            picture.load()
    # SyntaxError: of some broken PNG files. The bomb's error is none of the others.
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DataError(
            f"image '{path}' cannot be decoded ({_one_line(error)}); expected a whole picture "
            "that Pillow reads. Copy it again, or leave it out."
        ) from error
    if picture.mode in _TOO_DEEP:
        raise DataError(
            f"image '{path}' has mode {picture.mode}; expected 8 bits for each channel. Convert "
            "it, so that the scale is yours."
        )
    plain = picture.convert(_MODES[channels])
    if plain.size != (width, height):
        if resize is None:
            raise DataError(
                f"image '{path}' is {plain.width}×{plain.height}; expected {width}×{height}, as in "
                "training. Resize it, or give --resize."
            )
        plain = _RESIZED[resize](plain, (width, height))
    pixels_hwc = np.array(plain, dtype=np.uint8).reshape(height, width, channels)
    return torch.from_numpy(pixels_hwc.transpose(2, 0, 1).copy())


def _shorter_side_crop(picture: "Image", size: tuple[int, int]) -> "Image":
    import PIL.ImageOps
    from PIL.Image import Resampling

    return PIL.ImageOps.fit(picture, size, method=Resampling.BILINEAR)


def _squash(picture: "Image", size: tuple[int, int]) -> "Image":
    from PIL.Image import Resampling

    return picture.resize(size, Resampling.BILINEAR)


_RESIZED = {"shorter-side-crop": _shorter_side_crop, "squash": _squash}


def _pictures_below(folder: Path) -> Iterator[Path]:
    import PIL.Image

    endings = PIL.Image.registered_extensions()
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and path.suffix.lower() in endings and not hidden:
            yield path


def _one_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
