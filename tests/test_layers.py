"""Who may import whom, between layers and between the rooms of one, and how long a file may be."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import polyak

ROOT = Path(polyak.__file__).parent

PLAIN = {"checksums", "errors", "files", "lazy", "numbers", "tensor_files"}
OWN_FILES = PLAIN | {"userfile"}
"""Where a user may name a Python file of theirs."""

TRAINING = OWN_FILES | {"averaging", "metrics", "models", "data", "records"}
ANALYSIS = PLAIN | {"metrics", "records"}
MAY_IMPORT = {
    "checksums": set(),
    "errors": set(),
    "files": set(),
    "lazy": set(),
    "numbers": set(),
    "threads": set(),
    "tensor_files": {"errors", "files"},
    "userfile": {"errors"},
    "averaging": PLAIN,
    "metrics": {"errors"},
    "models": OWN_FILES,
    "data": OWN_FILES,
    "records": PLAIN,
    "loggers": {"errors", "files", "records"},
    "integrations": PLAIN | {"averaging"},
    "training": TRAINING,
    "study": TRAINING | {"threads", "training"},
    "analysis": ANALYSIS,
    "report": ANALYSIS | {"analysis"},
    "runs": TRAINING | {"training", "analysis", "__init__"},
    "__init__": {"averaging", "errors", "lazy", "metrics"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MODEL = {"kernels", "model"}
WORDS = {"names", "numbers"}
ROOMS = {
    "averaging": {
        "kernels": set(),
        "kinds": set(),
        "model": {"kernels"},
        "storage": MODEL,
        "batchnorm": MODEL,
        "settings": {"kinds"},
        "resuming": set(),
        "optimizer_hooks": MODEL,
        "adoption": MODEL | {"kinds"},
        "updates": MODEL | {"kinds", "storage", "settings", "adoption"},
        "notices": MODEL | {"kinds", "storage"},
        "scalars": MODEL | {"kinds", "storage"},
        "readings": MODEL
        | {"kinds", "storage", "updates", "notices", "scalars"}
        | {"counting", "live"},
        "live": MODEL | {"storage", "updates"},
        "counting": MODEL | {"storage", "optimizer_hooks", "updates", "live"},
        "averager": MODEL
        | {"kinds", "storage", "batchnorm", "settings", "optimizer_hooks", "updates"}
        | {"counting", "live", "readings", "boards", "resuming"},
        "nearest": {"kinds"},
        "saved_weights": set(),
        "boards": {"kinds", "readings", "nearest", "saved_weights"},
        "files": {"averager", "kinds", "kernels", "model.sharded"}
        | {"nearest", "saved_weights", "boards"},
        "__init__": {"averager", "batchnorm", "boards", "files", "kinds", "saved_weights"},
    },
    "analysis": {
        "seeds": set(),
        "timescales": set(),
        "overhead": set(),
        "audit": set(),
        "results": set(),
        "reliability": set(),
        "variants": {"results"},
        "loaded": {"results", "reliability", "variants"},
        "curves": {"loaded", "seeds"},
        "search": {"loaded"},
        "claims": {"loaded", "results", "curves"},
        "__init__": set(),
    },
    "report": {
        "names": set(),
        "numbers": set(),
        "paper": {"numbers"},
        "facts": WORDS,
        "departures": WORDS | {"paper"},
        "tables": WORDS | {"paper", "facts", "departures"},
        "figures": WORDS | {"paper", "tables"},
        "sections": WORDS | {"paper", "facts", "tables", "figures"},
        "overhead": {"numbers", "paper", "tables"},
        "audit": WORDS,
        "page": WORDS
        | {"paper", "facts", "departures", "tables", "figures", "sections", "overhead"},
        "archive": {"page"},
        "__init__": set(),
    },
    "data": {
        "images": set(),
        "pictures": set(),
        "batches": set(),
        "labels": set(),
        "normalisation": set(),
        "config": set(),
        "fingerprints": {"images"},
        "entries": {"config", "images"},
        "formats": {"pictures"},
        "decoding": {"config", "images", "labels", "pictures", "formats"},
        "text": {"config", "images", "labels", "pictures", "formats"},
        "sources": {"config", "images", "labels", "fingerprints", "formats", "decoding", "text"},
        "cache": {"config", "images", "fingerprints", "entries", "formats", "decoding", "sources"},
        "partitions": {"config", "images", "labels", "normalisation", "formats", "cache", "text"},
        "device_images": {"batches", "normalisation", "partitions"},
        "__init__": {"batches", "cache", "config", "images", "partitions"},
    },
    "training": {
        "config": set(),
        "randomness": set(),
        "machine": set(),
        "interruption": set(),
        "fused_batchnorm": set(),
        "run_state": set(),
        "selection": set(),
        "__init__": set(),
        "optim": {"config"},
        "steps": {"config"},
        "extra_averages": {"config"},
        "prediction": {"config", "randomness", "steps"},
        "logits": {"config", "machine", "prediction"},
        "later_predictions": {"config", "logits", "randomness"},
        "evaluation": {"config", "fused_batchnorm", "prediction", "randomness", "steps"},
        "loop": {"config", "optim", "randomness", "machine", "run_state", "selection", "steps"}
        | {"extra_averages", "evaluation"},
        "arms": {"config", "interruption", "logits", "loop", "prediction", "randomness"}
        | {"run_state"},
        "checkpoint": {"loop", "machine", "run_state"},
        "faster_precision": {"config", "loop", "steps"},
        "overhead": {"config", "fused_batchnorm", "loop", "prediction"},
        "probe": {"config", "optim", "prediction", "randomness"},
        "jobs": {"config", "interruption", "machine", "loop", "arms", "checkpoint"}
        | {"overhead", "probe"},
        "config_file": {"config"},
    },
    # The paper's studies stand above the parts that run any study; the runner knows none of them.
    "study": {
        "field_types": set(),
        "claims": set(),
        "plan": {"claims", "field_types"},
        "executors": set(),
        "status": set(),
        "registration": set(),
        "fitting": {"plan"},
        "options": {"plan"},
        "follow_ups": {"plan"},
        "record": {"plan"},
        "user_study": {"plan"},
        "preparation": {"plan", "fitting"},
        "selection": {"plan", "follow_ups"},
        "runner": {"plan", "executors", "follow_ups", "preparation", "record", "selection"},
        "paper": {"plan", "fitting"},
        "__init__": set(),
    },
    "runs": {
        "run": set(),
        "pictures": set(),
        "formats": {"run"},
        "boards": {"run"},
        "__init__": {"run", "pictures", "formats", "boards"},
    },
    "loggers": {
        "curves": set(),
        "written": set(),
        "csv_file": {"curves"},
        "tensorboard": {"curves", "written"},
        "wandb": {"curves", "written"},
        "following": {"curves", "csv_file", "tensorboard", "wandb"},
        "__init__": set(),
    },
    "cli": {
        "console": set(),
        "json_output": set(),
        "options": set(),
        "os_errors": set(),
        "run_names": set(),
        "terminal": set(),
        "logs": {"console"},
        "predictions_file": {"run_names"},
        "commands": {"console", "json_output", "logs", "predictions_file"}
        | {"options", "run_names"},
        "command_list": set(),
        "parsing": {"command_list"},
        "main": {"command_list", "os_errors", "parsing", "terminal"},
        "__init__": set(),
    },
}
"""By layer, what each of its rooms (a folder, or a file at its door) may import inside the layer.

`room.module` allows one module of a room. Nobody inside a layer imports the layer's own door."""

LARGEST_ROOM = 13
"""Modules that a folder of a layer with rooms may show."""
LARGEST_TRAINING = 21
"""Of `training`, one floor whose names are those of a run's parts."""

WITHOUT_TORCH = ("averaging/kinds",)
"""Folders of numbers only."""

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


def modules_named(tree: ast.AST, package: list[str]) -> set[str]:
    """The modules that import statements anywhere in a file name, in full.

    `from package import name` names a module where there is one of that name, else the package.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            inner = {f"{module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if is_module(name)}
            found |= modules | ({module} if modules != inner else set())
    return found


def is_module(name: str) -> bool:
    """Whether this is a module or package of `polyak`."""
    head, *rest = name.split(".")
    place = ROOT.joinpath(*rest)
    return head == "polyak" and (place.with_suffix(".py").is_file() or place.is_dir())


def inside(module: str, own: str) -> str | None:
    """A module of a layer as seen inside it: `room.module`, `__init__` for its door."""
    prefix = f"polyak.{own}"
    if module == prefix:
        return "__init__"
    return module.removeprefix(f"{prefix}.") if module.startswith(f"{prefix}.") else None


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
    assert lazily <= MAY_IMPORT[own], f"{own} may not load {sorted(lazily)}"


ROOM_FILES = [path for path in FILES if layer(path) in ROOMS]


@pytest.mark.parametrize("path", ROOM_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_what_its_row_allows(path):
    own = layer(path)
    package = ["polyak", *path.relative_to(ROOT).parent.parts]
    room = path.relative_to(ROOT / own).with_suffix("").parts[0]
    named = modules_named(ast.parse(path.read_text(encoding="utf-8")), package)
    taken = {name for module in named if (name := inside(module, own))}
    allowed = ROOMS[own][room] | ({room} - {"__init__"})
    bad = {n for n in taken if not any(n == a or n.startswith(f"{a}.") for a in allowed)}
    assert not bad, f"{own}.{room} may not import {sorted(bad)}"


@pytest.mark.parametrize("own", sorted(ROOMS))
def test_every_room_has_a_row_and_no_row_is_without_a_room(own):
    files = (path.relative_to(ROOT / own) for path in FILES if layer(path) == own)
    assert {path.with_suffix("").parts[0] for path in files} == ROOMS[own].keys()


@pytest.mark.parametrize("own", sorted(ROOMS))
def test_no_room_shows_more_modules_than_one_takes_in(own):
    for folder in [ROOT / own, *(x for x in (ROOT / own).iterdir() if x.is_dir())]:
        shown = [x.name for x in folder.glob("*.py") if x.name != "__init__.py"]
        most = LARGEST_TRAINING if folder == ROOT / "training" else LARGEST_ROOM
        assert len(shown) <= most, f"{folder.name}: {sorted(shown)}"


def without_circles(rows: dict[str, set[str]]) -> None:
    """Row by row, each rests on those that are settled."""
    settled: set[str] = set()
    while rows.keys() - settled:
        next_ones = {
            name
            for name in rows.keys() - settled
            if {x.partition(".")[0] for x in rows[name]} - {name} <= settled
        }
        assert next_ones, f"a circle among {sorted(rows.keys() - settled)}"
        settled |= next_ones


@pytest.mark.parametrize("own", sorted(ROOMS))
def test_the_rows_of_rooms_have_no_circles(own):
    without_circles(ROOMS[own])


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_a_folder_of_numbers_imports_the_standard_library_errors_and_numbers_only(folder):
    plain = {*sys.stdlib_module_names, "polyak.errors", "polyak.numbers"}
    own = "polyak." + folder.replace("/", ".")
    for path in (ROOT / folder).rglob("*.py"):
        package = ["polyak", *path.relative_to(ROOT).parent.parts]
        for module in modules_named(ast.parse(path.read_text(encoding="utf-8")), package):
            known = {module, module.split(".")[0]} & plain
            assert known or f"{module}.".startswith(f"{own}."), f"{path.name} imports {module}"


ALONE = """
import sys, types, pkgutil, importlib
root, folder = sys.argv[1:]
parts = ["polyak", *folder.split("/")]
# The packages above import torch; these stand in for them, so that only the folder is run.
for depth in range(1, len(parts)):
    package = types.ModuleType(".".join(parts[:depth]))
    package.__path__ = ["/".join([root, *parts[1:depth]])]
    sys.modules[package.__name__] = package
room = importlib.import_module(".".join(parts))
for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
    importlib.import_module(module.name)
print("torch" in sys.modules, len([m for m in sys.modules if m.startswith(room.__name__)]))
"""


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_a_folder_of_numbers_runs_where_there_is_no_torch(folder):
    call = [sys.executable, "-c", ALONE, str(ROOT), folder]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    loaded, modules = done.stdout.split()
    assert (loaded, int(modules)) == ("False", len(list((ROOT / folder).rglob("*.py"))))


@each_file
def test_no_file_is_longer_than_400_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{lines} lines: split it by idea"


def test_every_layer_has_a_row():
    assert {layer(path) for path in FILES} <= MAY_IMPORT.keys()


def test_the_table_has_no_circles():
    without_circles(MAY_IMPORT)


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


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from polyak.averaging.model import sharded", {"polyak.averaging.model.sharded"}),
        ("from polyak.averaging.model.current import Shard", {"polyak.averaging.model.current"}),
        ("from polyak.averaging import Averager", {"polyak.averaging"}),
        (
            "from polyak.averaging import Averager, kernels",
            {"polyak.averaging", "polyak.averaging.kernels"},
        ),
        ("from .model import swap", {"polyak.averaging.model.swap"}),
        ("from . import kernels", {"polyak.averaging.kernels"}),
        ("import polyak.averaging.files.mixtures.merge", {"polyak.averaging.files.mixtures.merge"}),
        ("from torch import Tensor", {"torch"}),
    ],
)
def test_the_reader_of_modules_sees_every_form(code, found):
    assert modules_named(ast.parse(code), ["polyak", "averaging"]) == found


def test_no_test_looks_for_the_checkout_beside_the_package():
    tests = Path(__file__).parent
    looking = re.compile(r"polyak\.__file__\).*" + r"parents\[2\]")
    for path in tests.rglob("*.py"):
        where = f"{path.relative_to(tests)}: take it from support.repository"
        assert not looking.search(path.read_text(encoding="utf-8")), where
