"""A table as data: what a template lays out without knowing what it says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A metric as a column."""

    metric: str
    heading: str
    unit: str
    scale: float = 1.0
    digits: int | None = 3
    """None: by the size of the test set."""

    difference: bool = False
    """Add a column with the paired difference from SGD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What stands in one place of a table."""

    text: str = ""
    spread: str = ""
    """Standard deviation, interval or range, beside the number."""

    published: tuple[tuple[str, str, str], ...] = ()
    """The paper's twins: text, version, note."""

    missing: bool = False
    """The text is a reason, not a number."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading with its unit."""

    heading: str
    unit: str = ""
    paper: bool = False
    spread_width: int = 0
    """Characters that the spreads of the column take, so that its numbers line up."""


@dataclass(frozen=True, slots=True)
class Line:
    """One model."""

    label: str
    cells: tuple[Cell, ...]
    emphasis: bool = False
    badge: str = ""
    """Beside the label: what else to know of the model."""


@dataclass(frozen=True, slots=True)
class Group:
    """The lines of one row of the study."""

    label: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the page."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]


def fitted(columns: Sequence[Column], groups: Sequence[Group]) -> tuple[Column, ...]:
    """The columns with room for their widest spread."""
    lines = [line for group in groups for line in group.lines]
    return tuple(
        replace(column, spread_width=max((len(line.cells[i].spread) for line in lines), default=0))
        for i, column in enumerate(columns)
    )
