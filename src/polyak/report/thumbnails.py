"""Images inside a page, so that it opens without any other file."""

from base64 import b64encode
from io import BytesIO

from PIL import Image
from torch import Tensor


def data_uri(image_chw: Tensor) -> str:
    """A uint8 image of 1 or 3 channels as the address of a PNG that is inside the address.

    Example:
        >>> import torch
        >>> data_uri(torch.zeros(3, 8, 8, dtype=torch.uint8))[:22]
        'data:image/png;base64,'
    """
    pixels = image_chw[0] if len(image_chw) == 1 else image_chw.permute(1, 2, 0)
    picture = BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(picture, format="PNG")
    return f"data:image/png;base64,{b64encode(picture.getvalue()).decode('ascii')}"
