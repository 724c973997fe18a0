"""The reference of `make docs` has whatever may be imported from `polyak`."""

import re

from support.pages import ROOT

import polyak


def test_every_public_name_is_in_the_reference():
    pages = (ROOT / "docs" / "reference").glob("*.rst")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    written = re.findall(r"^\.\. auto\w+:: (?:polyak\.)?(\w+)$", text, re.MULTILINE)
    assert set(polyak.__all__) - set(written) == set()
