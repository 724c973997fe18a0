"""What the scripts here share: a finished study, and tables in Markdown."""

import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import date
from io import StringIO
from pathlib import Path

from polyak.cli.main import main as command

STUDY = Path(__file__).with_name("small_study.py")


def finished_study(folder: Path) -> Path:
    """The output folder of the small study, carried out below `folder` with a cache of its own."""
    before = os.environ.get("POLYAK_CACHE")
    os.environ["POLYAK_CACHE"] = str(folder / "cache")
    with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        code = command(["study", str(STUDY), "--out", str(folder / "out")])
    if before is not None:
        os.environ["POLYAK_CACHE"] = before
    if code:
        raise SystemExit("the small study failed")
    return folder / "out"


def print_table(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """A table in Markdown."""
    print(f"| {' | '.join(heads)} |")
    print(f"|{'---|' * len(heads)}")
    for line in lines:
        print(f"| {' | '.join(map(str, line))} |")


def print_place_and_date() -> None:
    """Where and when a table was made."""
    machine = platform.processor() or platform.machine()
    print(f"\n{date.today()}, {machine}, {platform.system()}")
