"""The checkout that the tests belong to: beside an installed package are no pages and scripts."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
