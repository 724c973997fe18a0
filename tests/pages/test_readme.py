"""The front page is short, and leads to pages that exist."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
WORDS = 900


def words(text: str) -> list[str]:
    """Whatever has a letter or a digit in it, code included; where a link leads is not read."""
    shown = re.sub(r"\]\([^)]*\)|<!---.*?-->", "]", text, flags=re.DOTALL)
    return [word for word in shown.split() if re.search(r"\w", word)]


def test_it_has_at_most_900_words():
    assert words("a ![b c](d e) | – `f`\n<!--- g -->") == ["a", "![b", "c]", "`f`"]
    assert len(words(README.read_text(encoding="utf-8"))) <= WORDS


def test_every_link_in_it_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert links
    gone = [x for x in links if not x.startswith("https://") and not (README.parent / x).exists()]
    assert gone == []
