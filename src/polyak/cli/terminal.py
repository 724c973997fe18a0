"""What a command writes, as any terminal, file or pipe can take it.

Names of files, classes, studies and hosts come from strangers. Whatever prints them, no control
character of theirs reaches a terminal, and none is missing in its encoding.
"""

import re
import sys
from typing import Any, TextIO

from polyak.errors import printable

_STYLE = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z])")
"""What rich writes to a terminal: colours, and moves of its own cursor."""

_PLAIN = {
    "–": "-",
    "—": "-",
    "−": "-",
    "×": "x",
    "→": "->",
    "·": ".",
    "…": "...",
    "±": "+/-",
    "≤": "<=",
    "≥": ">=",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "█": "#",
    "━": "-",
}
"""Characters of our own messages, for encodings that lack them."""


class ReadableStream:
    """A text stream that takes any text.

    Control characters, marks that turn the direction of writing and halves of characters are
    written as their escapes; what the stream's encoding lacks, in plain characters or as escapes.

    Args:
        stream: Where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text and return its length."""
        # Only where rich would write them are styles more than text.
        parts = _STYLE.split(text) if self._stream.isatty() else [text]
        whole = "".join(x if i % 2 else _readable(x) for i, x in enumerate(parts))
        self._stream.write(_encodable(whole, self._stream.encoding or "utf-8"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_streams_readable() -> None:
    """Replace the process's standard streams; for a process that is a command."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, ReadableStream(getattr(sys, name)))


def _readable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(x if x in "\n\t\r" else printable(x) for x in re.split(r"([\n\t\r])", text) if x)


def _encodable(text: str, encoding: str) -> str:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = "".join(_PLAIN.get(c, c) for c in text)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text
