"""Tables as data: what a template lays out without knowing what it says.

A row is a row of the study; a table has lines, one below the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polyak.report.paper.published import Printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What stands where a line and a column meet."""

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


def fit_columns(columns: Sequence[Column], groups: Sequence[Group]) -> tuple[Column, ...]:
    """The columns with room for their widest spread."""
    lines = [line for group in groups for line in group.lines]
    return tuple(
        replace(column, spread_width=max((len(line.cells[i].spread) for line in lines), default=0))
        for i, column in enumerate(columns)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperCell:
    """A cell of a table in the paper's form: our number and the paper's in one place."""

    ours: Cell | None = None
    """None where a line is quoted and has no twin of ours."""

    aside: str = ""
    """What our number has to be read with."""

    paper: tuple[Printed, ...] = ()
    nothing: str = ""
    """Why the paper has no number, where that is not said for the whole line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperLine:
    """One line of such a table."""

    heads: tuple[str, ...]
    """One for each of the table's stubs."""

    cells: tuple[PaperCell, ...]
    remark: str = ""
    """What holds for the whole line, under its heading."""

    quoted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnGroup:
    """Neighbouring columns under one heading."""

    heading: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """A table as in the paper."""

    number: int
    title: str
    caption: str
    stubs: tuple[str, ...]
    groups: tuple[ColumnGroup, ...]
    lines: tuple[PaperLine, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the paper's numbers, in the order of the cells."""
        entries = (entry for line in self.lines for cell in line.cells for entry in cell.paper)
        return tuple(dict.fromkeys(note for entry in entries for note in entry.notes))

    def marks(self, entry: Printed) -> str:
        """The letters that stand beside a number for its notes.

        More than 26 notes go on with two letters.
        """
        return " ".join(mark(self.notes.index(note)) for note in entry.notes)


def mark(index: int) -> str:
    """The letter of a note.

    Example:
        >>> mark(0), mark(25), mark(26)
        ('a', 'z', 'aa')
    """
    letters = chr(ord("a") + index % 26)
    return letters if index < 26 else mark(index // 26 - 1) + letters
