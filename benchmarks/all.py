"""All CPU benchmarks, one after the other, and the tables of docs/ written from what they print.

python benchmarks/all.py --list               # what would be run, page by page
python benchmarks/all.py                      # all of it: hours
python benchmarks/all.py --only commands.py   # what has this in its command

A table stands in a page between two comments, of which the first names its command:

    <!-- measured: benchmarks/revisions.py {7d8c9c0}/src src --rounds 6 --of arms -->
    <!-- end -->

Date, machine and the tables that the command prints come between them. {REVISION} is a work tree
of that commit, {demo} the folder of a demo that is run before.
"""

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
ENTRY = "from polyak.cli.main import entry; entry()"
BLOCK = re.compile(r"<!-- measured: (?P<command>.+?) -->\n.*?<!-- end -->", re.DOTALL)


def commands_in(text: str) -> list[str]:
    """The commands whose tables a page has, in its order."""
    return [found["command"] for found in BLOCK.finditer(text)]


def with_tables(text: str, tables: dict[str, str]) -> str:
    """The page with other tables, by command; those of other commands stay."""

    def block(found: re.Match[str]) -> str:
        command = found["command"]
        if command not in tables:
            return found[0]
        return f"<!-- measured: {command} -->\n{tables[command].strip()}\n<!-- end -->"

    return BLOCK.sub(block, text)


def tables_in(output: str) -> str:
    """The tables that a script printed, without what it says around them."""
    lines = output.splitlines()
    kept = [line if line.startswith("|") else "" for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def machine() -> str:
    """Where and when."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch = version("torch")
    return f"{date.today():%-d %B %Y}, {cores} cores of {processor()}, torch {torch}"


def processor() -> str:
    """Its model, and whether it has instructions for bfloat16."""
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"model name\s*: (.*)", facts)
    has = [name for name in ("amx_bf16", "avx512_bf16") if name in facts]
    return f"{model[1] if model else platform.machine()} ({', '.join(has) or 'no bfloat16'})"


class Places:
    """What stands for the words in braces: made when it is first asked for, then gone."""

    def __init__(self, stack: ExitStack) -> None:
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._stack = stack
        self.of: Callable[[str], str] = cache(self._made)

    def _made(self, word: str) -> str:
        place = self._folder / word
        if word == "demo":
            call([sys.executable, "-c", ENTRY, "demo", "--out", str(place)])
            return str(place / "demo")
        call(["git", "worktree", "add", "--detach", str(place), word])
        remove = ["git", "worktree", "remove", "--force", str(place)]
        self._stack.callback(lambda: call(remove))
        return str(place)


def call(command: list[str]) -> str:
    """What a command prints; its progress goes where ours goes."""
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def wanted(only: str) -> Iterator[tuple[Path, str]]:
    """Pages and the commands of their tables that have this in them."""
    for page in PAGES:
        for command in commands_in(page.read_text(encoding="utf-8")):
            if only in command:
                yield page, command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only commands that have this in them")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if given.list:
        for page, command in wanted(given.only):
            print(f"{page.relative_to(REPOSITORY)}: {command}")
        return
    with ExitStack() as stack:
        places = Places(stack)
        for page, command in wanted(given.only):
            print(f"{page.name}: {command}", file=sys.stderr, flush=True)
            words = re.sub(r"\{(\w+)\}", lambda found: places.of(found[1]), command)
            printed = tables_in(call([sys.executable, *shlex.split(words)]))
            # A page is written after each, so that what was measured is not lost.
            text = page.read_text(encoding="utf-8")
            table = f"{machine()}:\n\n{printed}"
            page.write_text(with_tables(text, {command: table}), encoding="utf-8")


if __name__ == "__main__":
    main()
