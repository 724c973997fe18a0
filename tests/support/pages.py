"""Pages of documentation and the code on them: Python, and commands of `polyak`.

A block says by its first line what it is: `python` is executed, after those above it on its page
and in their namespace; `sh` are commands; `text` is shown. One that needs what may not be at hand
has a line before it that readers do not see, such as
`<!--- skip: next if(lacks("lightning"), "needs lightning") -->`.
"""

import os
import re
import shlex
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path
    for place, pattern in (
        (ROOT, "*.md"),
        (ROOT / "docs", "**/*.md"),
        (ROOT / "src", "**/README.md"),
        (ROOT / "examples", "*.md"),
        (ROOT / "benchmarks", "*.md"),
    )
    for path in sorted(place.glob(pattern))
}


def languages(page: str) -> list[str]:
    """What the blocks of a page say they are; "" where they say nothing."""
    fences = re.findall(r"^ *```(.*)$", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE)
    return fences[::2]


def lacks(package: str) -> bool:
    """Whether a package is not installed."""
    return find_spec(package) is None


def alone() -> bool:
    """Whether this process is no member of a world, as `torchrun` makes one."""
    return "WORLD_SIZE" not in os.environ


def execute(page: str) -> list[str]:
    """Execute the Python of a page as it stands there, and return why blocks were left out.

    Raises:
        Exception: whatever a block raises, with the page's own lines in its traceback.
    """
    document = Document.parse(str(PAGES[page]), SkipParser(), PythonCodeBlockParser())
    document.namespace |= {"lacks": lacks, "alone": alone, "__name__": "__page__"}
    left_out = []
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest as reason:
            left_out.append(str(reason))
    return left_out


def commands(page: str, *, at_hand: bool = False) -> list[list[str]]:
    """What follows `polyak` in the `sh` blocks of a page, as a shell would split it.

    Args:
        page: A name of `PAGES`.
        at_hand: Only of blocks that have nothing before them by which they are skipped.
    """
    found: list[list[str]] = []
    block = CodeBlockParser("sh", lambda example: found.extend(_commands(example.parsed)))
    parsers = [SkipParser(), block] if at_hand else [block]
    document = Document.parse(str(PAGES[page]), *parsers)
    document.namespace |= {"lacks": lacks}
    for example in document.examples():
        with suppress(SkipTest):
            example.evaluate()
    return found


def _commands(block: str) -> list[list[str]]:
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        words.whitespace_split = True
        split = list(words)
        for head in (i for i, word in enumerate(split) if Path(word).name == "polyak"):
            if all("=" in word or word == "until" for word in split[:head]):
                found.append(_until_punctuation(split[head + 1 :]))
    return found


def _until_punctuation(words: list[str]) -> list[str]:
    ends = [i for i, word in enumerate(words) if word[0] in "();<>|&"]
    return words[: ends[0]] if ends else words


if __name__ == "__main__":
    # As a member of a world: `torchrun --nproc-per-node 2 tests/support/pages.py PAGE`.
    warnings.simplefilter("error", RuntimeWarning)
    if execute(sys.argv[1]):
        raise SystemExit("blocks were left out")
