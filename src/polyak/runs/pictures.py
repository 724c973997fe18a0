"""Pictures of a user as the uint8 images that a run's networks were trained on.

Shape suffixes: c channels, h height, w width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polyak.data.config import ResizeHow
from polyak.data.pictures import PictureStack
from polyak.errors import ConfigError, DataError


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


@dataclass(slots=True)
class PictureReader:
    """Reads pictures as data sets are read, and counts what of them was left out.

    Args:
        image_shape: Channels (1 grey, 3 RGB), height and width of what is wanted.
        resize: How to bring a picture of another size to that; None refuses it.

    Raises:
        ConfigError: for other channels, or for resizing to what is no square.
    """

    image_shape: tuple[int, int, int]
    resize: ResizeHow | None = None
    _stack: PictureStack = field(init=False)

    def __post_init__(self) -> None:
        channels, height, width = self.image_shape
        if channels not in (1, 3):
            raise ConfigError(
                f"the network takes {channels} channels; expected 1 or 3, as pictures have. Use "
                "polyak.runs.load(…).predict with tensors."
            )
        if self.resize is not None and height != width:
            raise ConfigError(
                f"the network takes {width}×{height}, and resizing makes squares; expected "
                "pictures of that size. Resize them before."
            )
        side = None if self.resize is None else height
        self._stack = PictureStack(resize=side, how=self.resize or "shorter-side-crop")

    def read(self, path: Path) -> Tensor:
        """A picture as uint8, shape (c, h, w): turned as its EXIF says, grey or RGB as wanted.

        Raises:
            DataError: that names the file, if it cannot be decoded, is too deep or of another
                size.
        """
        channels, height, width = self.image_shape
        rgb_chw = self._stack.add([path], 1, place=lambda _: f"image '{path}'")[0]
        got_height, got_width = rgb_chw.shape[1:]
        if (got_height, got_width) != (height, width):
            raise DataError(
                f"image '{path}' is {got_width}×{got_height}; expected {width}×{height}, as in "
                "training. Resize it, or give --resize."
            )
        return rgb_chw if channels == 3 else _grey(rgb_chw)

    def notes(self) -> list[str]:
        """What of the pictures so far was not read as it is, a sentence each."""
        return self._stack.notes()


def read_picture(
    path: Path, image_shape: tuple[int, int, int], *, resize: ResizeHow | None = None
) -> Tensor:
    """One picture as a network takes it before normalisation; see `PictureReader`."""
    return PictureReader(image_shape, resize).read(path)


def _grey(rgb_chw: Tensor) -> Tensor:
    """Of grey pictures, whose three channels are equal, one of them."""
    from PIL.Image import fromarray

    picture = fromarray(rgb_chw.permute(1, 2, 0).contiguous().numpy())
    return torch.from_numpy(np.array(picture.convert("L")))[None]


def _pictures_below(folder: Path) -> Iterator[Path]:
    import PIL.Image

    endings = PIL.Image.registered_extensions()
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and path.suffix.lower() in endings and not hidden:
            yield path
