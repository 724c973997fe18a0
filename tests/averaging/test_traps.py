"""The table of traps names tests that exist, and every one of the traps."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = (TESTS.parents[1] / "docs" / "averaging-traps.md").read_text()


def test_every_trap_has_a_row():
    rows = [int(number) for number in re.findall(r"^\| C(\d+) \|", TABLE, re.MULTILINE)]
    assert rows == list(range(1, 27))


def test_every_test_in_the_table_exists():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TABLE)
    assert len(named) > 40
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not any(f"def {name}(" in path.read_text() for path in TESTS.rglob(file))
    ]
    assert not missing
