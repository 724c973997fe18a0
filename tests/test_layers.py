"""Who may import whom, and how long a file may be."""

import ast
from pathlib import Path

import pytest

import polyak

ROOT = Path(polyak.__file__).parent

PLAIN = {"checksums", "errors", "files", "userfile"}
TRAINING = PLAIN | {"averaging", "metrics", "models", "data", "records"}
ANALYSIS = PLAIN | {"metrics", "records"}
MAY_IMPORT = {
    "checksums": set(),
    "errors": set(),
    "files": set(),
    "userfile": {"errors"},
    "averaging": PLAIN,
    "metrics": PLAIN,
    "models": PLAIN,
    "data": PLAIN,
    "records": PLAIN,
    "integrations": PLAIN | {"averaging"},
    "training": TRAINING,
    "study": TRAINING | {"training"},
    "analysis": ANALYSIS,
    "report": ANALYSIS | {"analysis"},
    "__init__": {"averaging", "errors"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
LAZILY = {"__init__": {"metrics"}}
"""What a layer may load by `import_module` only, when it is first asked for."""

FILES = sorted(ROOT.rglob("*.py"))


def each_file(test):
    return pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))(test)


def layer(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def layer_of_module(module: str) -> str | None:
    """The layer of `polyak.x.y`, `__init__` of `polyak` itself, None for others' modules."""
    head, *rest = module.split(".")
    if head != "polyak":
        return None
    return rest[0] if rest else "__init__"


def imported(tree: ast.AST, package: list[str]) -> set[str]:
    """The layers of `polyak` that import statements anywhere in a file name.

    `package` holds the parts of the package that the file is in, for relative imports.
    """
    found: set[str | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {layer_of_module(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            if module == "polyak":
                found |= {a.name if a.name in MAY_IMPORT else "__init__" for a in node.names}
            else:
                found.add(layer_of_module(module))
    return {name for name in found if name is not None}


def loaded_by_name(tree: ast.AST) -> set[str]:
    """The layers that calls of `import_module` or `__import__` name; "?" for a computed name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        called = node.func.id if isinstance(node.func, ast.Name) else called
        if called not in ("import_module", "__import__"):
            continue
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            name = layer_of_module(first.value)
            found |= {name} if name else set()
        else:
            found.add("?")
    return found


@each_file
def test_a_layer_imports_only_what_its_row_allows(path):
    own = layer(path)
    package = ["polyak", *path.relative_to(ROOT).parent.parts]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = imported(tree, package) - {own}
    assert taken <= MAY_IMPORT[own], f"{own} may not import {sorted(taken - MAY_IMPORT[own])}"
    lazily = loaded_by_name(tree) - {own, "?"}
    assert lazily <= LAZILY.get(own, MAY_IMPORT[own]), f"{own} may not load {sorted(lazily)}"


@each_file
def test_no_file_is_longer_than_400_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{lines} lines: split it by idea"


def test_every_layer_has_a_row():
    assert {layer(path) for path in FILES} <= MAY_IMPORT.keys()


def test_the_table_has_no_circles():
    """Layer by layer, each rests on those that are settled."""
    settled: set[str] = set()
    while MAY_IMPORT.keys() - settled:
        next_ones = {
            name for name in MAY_IMPORT.keys() - settled if MAY_IMPORT[name] - {name} <= settled
        }
        assert next_ones, f"a circle among {sorted(MAY_IMPORT.keys() - settled)}"
        settled |= next_ones


@pytest.mark.parametrize(
    ("code", "package", "found"),
    [
        ("import torch", ["polyak"], set()),
        ("import polyak.training.loop as x", ["polyak"], {"training"}),
        ("from polyak.study import runner", ["polyak"], {"study"}),
        ("from polyak import errors, Averager", ["polyak"], {"errors", "__init__"}),
        ("from . import kinds", ["polyak", "averaging"], {"averaging"}),
        ("from .. import metrics", ["polyak", "averaging"], {"metrics"}),
        ("from ..metrics.calibration import ece", ["polyak", "averaging"], {"metrics"}),
        ("from ...data import x", ["polyak", "study", "executors"], {"data"}),
        ("def f():\n    import polyak.cli", ["polyak"], {"cli"}),
        ("import polyakish", ["polyak"], set()),
    ],
)
def test_the_reader_of_imports_sees_every_form(code, package, found):
    assert imported(ast.parse(code), package) == found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import_module('polyak.metrics')", {"metrics"}),
        ("importlib.import_module('polyak.study.plan')", {"study"}),
        ("__import__('polyak')", {"__init__"}),
        ("import_module('torch')", set()),
        ("import_module(name)", {"?"}),
    ],
)
def test_the_reader_of_lazy_imports_sees_every_form(code, found):
    assert loaded_by_name(ast.parse(code)) == found
