"""docs/integrations.md: nowhere does a user add more lines for us than for the best peer."""

import re

import pytest
from support.pages import PAGES


def rows() -> list[list[str]]:
    text = PAGES["docs/integrations.md"].read_text(encoding="utf-8")
    below = text.partition("## Lines\n")[2].partition("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_ours_are_no_more_and_both_are_counted_right(row):
    _, ours, mine, theirs, best = row
    assert int(mine) <= int(best)
    assert len(re.findall(r"`[^`]+`", ours)) == int(mine)
    # The name of the tool, where it is code, is no line.
    assert len(re.findall(r"`[^`]+`(?!:)", theirs)) == int(best)
