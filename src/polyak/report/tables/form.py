"""A table in the paper's own form, as data: ours and the paper's number in one place."""

from dataclasses import dataclass

from polyak.report.paper.printed import Printed
from polyak.report.tables.table import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a line and a column meet."""

    ours: Cell | None = None
    """None where a line is quoted and has no twin of ours."""

    aside: str = ""
    """What our number has to be read with."""

    paper: tuple[Printed, ...] = ()
    nothing: str = ""
    """Why the paper has no number, where that is not said for the whole line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormLine:
    """One line."""

    heads: tuple[str, ...]
    """One for each of the form's stubs."""

    places: tuple[Place, ...]
    remark: str = ""
    """What holds for the whole line, under its heading."""

    quoted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FormGroup:
    """Neighbouring columns under one heading."""

    heading: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A table as in the paper."""

    table: int
    title: str
    caption: str
    stubs: tuple[str, ...]
    groups: tuple[FormGroup, ...]
    lines: tuple[FormLine, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the paper's numbers, in the order of the cells."""
        entries = (entry for line in self.lines for place in line.places for entry in place.paper)
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
