"""The page on architecture says what the code is: its paths, its tables and its walks."""

import ast
import re
from pathlib import Path

import pytest
from test_layers import MAY_IMPORT, ROOMS, modules_named

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = [
    *(REPOSITORY / "docs").glob("*.md"),
    *(REPOSITORY / "src").rglob("README.md"),
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
]
PLACES = (REPOSITORY, REPOSITORY / "src" / "polyak", REPOSITORY / "tests")

Table = dict[str, set[str]]


def named_paths(text: str) -> set[str]:
    """Code that looks like a file or folder of ours: what users have is no such path."""
    spans = re.findall(r"`([\w./*-]+/[\w./*-]*)(?:::\w+)?`", text)
    paths = {span for span in spans if span.endswith((".py", ".md", ".j2", ".zip", "/"))}
    return {path for path in paths if not path.startswith(("out/", "averages/", "checkpoint/"))}


def exists(path: str) -> bool:
    return any(next(place.glob(path.rstrip("/")), None) for place in PLACES)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", cell)


def allowed(cell: str, table: Table) -> set[str]:
    """What a cell allows to import, by what the rows above it allow."""
    own = set(names_in(cell))
    further = [table[name] for name in own] if "may import" in cell else []
    return own.union(*further)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_path_that_a_page_names_exists(page):
    near = {*named_paths(page.read_text(encoding="utf-8"))}
    gone = {path for path in near if not exists(path) and not (page.parent / path).exists()}
    assert not gone


def test_the_table_of_packages_is_that_of_the_layers():
    table: Table = {}
    for packages, cell in rows("The house"):
        found = set(table) if cell == "everything" else allowed(cell, table)
        table |= dict.fromkeys(names_in(packages), found)
    assert table == MAY_IMPORT


def test_the_table_of_rooms_is_that_of_the_layers():
    block = PAGE.partition("## Rooms\n")[2].partition("```text\n")[2].partition("```")[0]
    table: dict[str, Table] = {}
    for line in block.splitlines():
        if not line.startswith(" "):
            mine = table.setdefault(line, {})
            continue
        rooms, _, cell = line.partition("←")
        mine |= {room: set(cell.split()) for room in rooms.split()}
    others = {own: {r: x - {r} for r, x in of.items()} for own, of in ROOMS.items()}
    assert table == others


def test_where_to_change_something_names_files_tests_and_pages_that_exist():
    for what, file, test, page in rows("Where do I change …?"):
        named = {*named_paths(f"{file} {test}")}
        assert any(path.startswith("tests/") for path in named), what
        assert any(not path.startswith("tests/") for path in named), what
        pages = re.findall(r"\]\(\.\./(\w+\.md)|`((?:docs/)?\w+\.md)`", page)
        assert page == "–" or all((REPOSITORY / (a or b)).is_file() for a, b in pages), what
        assert page == "–" or pages, what


def walks(heading: str) -> list[list[str]]:
    """The files of the numbered lists below a heading, in order."""
    below = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lists = [walk.partition("\n\n")[0] for walk in below.split("\n1. ")[1:]]
    return [re.findall(r"`(\w+/[\w/]+\.py)`", walk) for walk in lists]


WALKS = [
    *walks("From a decay to the kernel"),
    *walks("From a hold-out score to its curve"),
]


def test_there_are_three_walks():
    assert len(WALKS) == 3


@pytest.mark.parametrize("files", WALKS)
def test_a_walk_passes_eight_files_at_most_each_imported_by_one_before_it(files):
    assert 4 < len(files) <= 8
    known: set[str] = set()
    for file in files:
        path = REPOSITORY / "src" / "polyak" / file
        name = "polyak." + file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        assert name in known or not known, f"nothing before {file} imports it"
        package = ["polyak", *Path(file).parent.parts]
        known |= modules_named(ast.parse(path.read_text(encoding="utf-8")), package)


def test_the_worked_example_is_a_kind_that_its_test_takes_through_everything():
    [example] = re.findall(r"\n(@dataclass.*?)\n\n\n", CONTRIBUTING, flags=re.DOTALL)
    test = REPOSITORY / "tests" / "averaging" / "kinds" / "test_average.py"
    assert example in test.read_text(encoding="utf-8")
