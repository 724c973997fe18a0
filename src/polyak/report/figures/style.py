"""Colours, dashes and markers, one set for printed and interactive figures.

The baseline and single marks come from Okabe & Ito's palette; averages go from light to dark with
their window. Every line differs in dash or marker too, so nothing rests on colour alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

Dash = Literal["solid", "dash", "dot", "dashdot"]
Marker = Literal["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x"]

INK = "#1f2933"
MUTED = "#5b6770"
GRID = "#dfe4e8"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Style:
    """How one line is drawn."""

    colour: str
    dash: Dash = "solid"
    marker: Marker | None = None
    width: float = 1.6
    """Points; 0 for marks without a line."""


SGD = Style("#d55e00", width=2.2)
BEST = Style("#111111", dash="dot", width=2.2)
RATE = Style(MUTED, width=1.4)
IDEAL = Style("#8a949c", dash="dash", width=1.2)
STOP = Style("#111111", marker="x", width=0)
RECOMPUTED = Style("#0072b2", width=2.0)
AVERAGED = Style("#e69f00", dash="dash", width=2.0)
AUTHORS_EMA = Style("#b9a9c9", width=3.2)
AUTHORS_SGD = Style("#e3c3a8", width=3.2)
ARMS = (
    SGD,
    Style("#0072b2", dash="dash", marker="square", width=2.0),
    Style("#009e73", dash="dashdot", marker="triangle-up", width=2.0),
)

_LIGHT, _DARK = (0x7F, 0xC8, 0xE8), (0x2B, 0x2A, 0x6C)
_MARKERS: tuple[Marker, ...] = ("circle", "square", "diamond", "triangle-up", "triangle-down")
_DASHES: tuple[Dash, ...] = ("solid", "dash", "dashdot")


def bank(names: Sequence[str]) -> dict[str, Style]:
    """A style for each average of a bank, from the shortest window to the longest."""
    marks = zip(names, cycle(_MARKERS), cycle(_DASHES))
    return {
        name: Style(_between(i / max(1, len(names) - 1)), dash=dash, marker=marker)
        for i, (name, marker, dash) in enumerate(marks)
    }


def translucent(colour: str, alpha: float) -> str:
    """A hexadecimal colour as CSS rgba.

    Example:
        >>> translucent("#ff0000", 0.5)
        'rgba(255, 0, 0, 0.5)'
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha:g})"


def _between(share: float) -> str:
    mixed = (round(a + share * (b - a)) for a, b in zip(_LIGHT, _DARK, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
