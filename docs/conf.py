"""The site of `make docs`: pages as they stand in the repository, and a reference from docstrings.

The source is the repository's root, so that links mean the same here and in a checkout. Nothing is
fetched when it is read: fonts are the system's, the search's index is a file of the site.
"""

import re
import shutil
from pathlib import Path

from polyak import __version__

ROOT = Path(__file__).parents[1]

project = "polyak"
version = release = __version__
root_doc = "README"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "docs/**.md",
    "docs/reference/*.rst",
    "examples/README.md",
    "src/polyak/averaging/README.md",
    "src/polyak/report/README.md",
]
exclude_patterns = [".*", "build", "dist", "out", "tests"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
templates_path: list[str] = []

myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_ambiguous",
    "myst.header",  # CHANGELOG begins versions a level deeper
]

default_role = "py:obj"  # `name` in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"polyak {__version__}"
html_show_sphinx = False
html_copy_source = False

CONTENTS = {
    "The plug-in": (
        "docs/averages",
        "examples/README",
        "docs/integrations",
        "docs/teachers",
        "docs/sharded",
        "docs/deciding-later",
        "docs/averaging-traps",
        "docs/averaging-speed",
        "docs/how-it-works",
    ),
    "From another tool": ("docs/switching", "docs/from/*"),
    "The laboratory": (
        "docs/laboratory",
        "docs/data",
        "docs/extending",
        "docs/runs",
        "docs/json",
        "docs/presets",
        "docs/claims",
        "docs/label-audit",
        "docs/reliability",
        "docs/harness-speed",
    ),
    "Results": (
        "docs/results/README",
        "docs/results/*/README",
        "docs/first-runs",
        "docs/deviations",
    ),
    "Reference": ("docs/reference/*",),
    "The project": (
        "docs/architecture",
        "src/polyak/averaging/README",
        "src/polyak/report/README",
        "benchmarks/README",
        "docs/log",
        "CONTRIBUTING",
        "CHANGELOG",
        "SECURITY",
        "CODE_OF_CONDUCT",
    ),
}


def _with_contents(_app, page, source):
    """The navigation, which the README of a repository has no use for."""
    if page == root_doc:
        trees = (
            ["", "```{toctree}", ":hidden:", ":glob:", f":caption: {caption}", "", *pages, "```"]
            for caption, pages in CONTENTS.items()
        )
        source[0] += "\n".join(line for tree in trees for line in tree) + "\n"
    # Links to studies' own pages, which are copied below and are no documents of Sphinx.
    source[0] = re.sub(r"\[([^\]]+)\]\(([\w./-]*index\.html)\)", r'<a href="\2">\1</a>', source[0])


def _with_studies(app, failed):
    """Studies' own pages beside the page that leads to them, and the way in."""
    if failed is None and app.builder.name == "html":
        out = Path(app.outdir)
        shutil.copytree(
            ROOT / "docs" / "results",
            out / "docs" / "results",
            ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__"),
            dirs_exist_ok=True,
        )
        way_in = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (out / "index.html").write_text(way_in, encoding="utf-8")


def _with_equations(_app, _what, _name, _of, _options, lines):
    """What is indented in a docstring, before its sections, is set as it stands."""
    found, in_sections = [], False
    for line in lines:
        # Else the role takes what is in angle brackets for a target.
        line = re.sub(r"(?<!`)`([^`]*<[^`]*>[^`]*)`(?!`)", r"``\1``", line)
        in_sections |= re.fullmatch(r"[A-Z]\w+:", line) is not None
        above = next((x for x in reversed(found) if x.strip()), "")
        begins = line.startswith("    ") and not above.startswith("    ") and found[-1:] == [""]
        if begins and not in_sections and not above.endswith("::"):
            found += ["::", ""]
        found.append(line)
    lines[:] = found


def setup(app):
    app.connect("autodoc-process-docstring", _with_equations, priority=400)  # before napoleon
    app.connect("source-read", _with_contents)
    app.connect("build-finished", _with_studies)
