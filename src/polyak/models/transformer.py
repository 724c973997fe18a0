"""Blocks of transformers, a small vision transformer, and a small GPT on bytes.

Shape suffixes: b batch, c channels, h height or heads, w width, t tokens, d width of a token or of
a head, k classes.
"""

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyak.models.config import HEAD


class Block(nn.Module):
    """Attention, then a perceptron of four times the width, each after a LayerNorm and added.

        x ← x + attention(norm(x)),  x ← x + W₂ gelu(W₁ norm(x))

    Args:
        width: Of a token; a multiple of 32, the width of a head.
        causal: Whether a token sees only those before it and itself.

    Source:
        Vaswani et al. 2017, normalised before each part as in GPT-2 and ViT.
    """

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.causal = causal
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x_btd: Tensor) -> Tensor:
        x_btd = x_btd + self._attend(self.norm1(x_btd))
        widened: Tensor = self.narrow(F.gelu(self.widen(self.norm2(x_btd))))
        return x_btd + widened

    def _attend(self, x_btd: Tensor) -> Tensor:
        b, t, d = x_btd.shape
        parts = self.qkv(x_btd).view(b, t, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        seen = attention(*parts, causal=self.causal)
        attended: Tensor = self.project(seen.transpose(1, 2).reshape(b, t, d))
        return attended


def attention(q_bhtd: Tensor, k_bhtd: Tensor, v_bhtd: Tensor, *, causal: bool) -> Tensor:
    """softmax(q kᵀ / √d) v of each head, shape (b, h, t, d); bfloat16 is float32 inside on CPUs."""
    if q_bhtd.device.type == "cpu" and q_bhtd.dtype == torch.bfloat16:
        # There torch's gradient of it takes several times as long as in float32.
        with torch.autocast("cpu", enabled=False):
            wide = attention(q_bhtd.float(), k_bhtd.float(), v_bhtd.float(), causal=causal)
        return wide.to(q_bhtd.dtype)
    return F.scaled_dot_product_attention(q_bhtd, k_bhtd, v_bhtd, is_causal=causal)


class ViT(nn.Module):
    """A vision transformer: patches, fixed positions, blocks, the mean of all tokens, a head.

    Args:
        patch: Height and width of a patch in pixels; divides the images' size.
        depth: Number of blocks.
        width: Of a token; a multiple of 32, the width of a head.
        classes: Number of logits.
        channels: Channels of the images.

    Source:
        Dosovitskiy et al. 2021 in the form of Beyer et al. 2022 (arXiv:2205.01580): sines and
        cosines as positions, the mean instead of a token for the class, one linear layer as head.
    """

    def __init__(self, *, patch: int, depth: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.Sequential(*(Block(width, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bdhw = self.embed(x_bchw)
        x_btd = x_bdhw.flatten(2).transpose(1, 2)
        x_btd = x_btd + positions(*x_bdhw.shape[1:]).to(x_btd)
        logits_bk: Tensor = self.head(self.norm(self.blocks(x_btd)).mean(dim=1))
        return logits_bk


def positions(width: int, height: int, columns: int) -> Tensor:
    """Sines and cosines of a patch's column and row, at widths/4 frequencies.

        ω_i = 10000^(−i/(w/4 − 1)),  [sin xω, cos xω, sin yω, cos yω]

    Args:
        width: w, of a token; a multiple of 4, at least 8.
        height: Rows of patches.
        columns: Patches in a row.

    Returns:
        Shape (height·columns, width), row by row.

    Source:
        Beyer et al. 2022, as in their code.
    """
    frequencies = torch.exp(torch.linspace(0.0, -log(10000.0), width // 4))
    rows, places = torch.meshgrid(torch.arange(height), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (places, rows)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


def vit(*, classes: int, channels: int, patch: int = 4, depth: int = 6, width: int = 192) -> ViT:
    """A ViT for 32×32 images: 64 patches of 4×4, between ViT's tiny sizes in depth.

    Example:
        >>> sum(p.numel() for p in vit(classes=10, channels=3).parameters())
        2680906
    """
    return ViT(patch=patch, depth=depth, width=width, classes=classes, channels=channels)


class GPT(nn.Module):
    """A causal transformer on bytes: what the next one is, at every position of a window.

        x = E[bytes] + P,  blocks,  logits = norm(x) Eᵀ

    Args:
        depth: Number of blocks.
        width: Of a token; a multiple of 32, the width of a head.
        context: Positions of a window.
        classes: Number of bytes, and of logits.

    Source:
        Radford et al. 2019 (GPT-2) without dropout: learned positions P, and one matrix E for the
        embedding and the logits.
    """

    def __init__(self, *, depth: int, width: int, context: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Windows (b, 1, t, 1) of bytes, as floats or integers, to logits (b, t, k)."""
        x_btd = self.embed(x_bchw.flatten(1).long()) + self.places.weight
        # No second matrix: of one that two layers share, a copy elsewhere may lose the sharing.
        return F.linear(self.norm(self.blocks(x_btd)), self.embed.weight)


def gpt(*, classes: int, channels: int, context: int, depth: int = 4, width: int = 128) -> GPT:
    """A GPT for windows of `context` bytes that a CPU trains in minutes.

    Example:
        >>> sum(p.numel() for p in gpt(classes=256, channels=1, context=128).parameters())
        842496
    """
    assert channels == 1
    return GPT(depth=depth, width=width, context=context, classes=classes)
