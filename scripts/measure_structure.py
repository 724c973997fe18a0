"""Measures how the source is laid out, in one tree or in two beside each other.

    python scripts/measure_structure.py BEFORE/src src --study OUT/STUDY

Names: modules and sub-packages that a folder shows. Floors: longest chain of imports among them.
A kind of average is a class with the methods `label` and `weight`. A new one touches the files that
list kinds (two or more) and those that decide by kind, outside of that kind's own file: by its type
(isinstance, case) or its name in a record. (Report is left out there: its "ema" is an arm.) An
output folder is a parameter `out`. All this is read from the syntax. Only for `--study` is each
tree run: it writes the page of that study (finished, by the older tree), from a copy and in a
process of its own, while openings of log.jsonl and monitor.jsonl are counted.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

COLLECTIONS = (ast.BinOp, ast.Tuple, ast.Set, ast.List, ast.Dict)
ROOMS = ("averaging", "report", "study", "training", "analysis", "data")
COUNT_OPENINGS = """
import sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
from polyak.cli.main import main
main(["report", sys.argv[1]])
logs = [name for name in opened if name.endswith(("log.jsonl", "monitor.jsonl"))]
print(f"{len(logs)} of {len(set(logs))} files")
"""


class Room:
    """A folder of modules, with the imports among what it shows."""

    def __init__(self, root: Path, folder: Path) -> None:
        files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        self.names = files | {path.parent.name for path in folder.glob("*/__init__.py")}
        self._arrows: dict[str, set[str]] = {}
        own = ".".join(["polyak", *folder.relative_to(root).parts, ""])
        for path in folder.rglob("*.py"):
            name = path.relative_to(folder).parts[0].removesuffix(".py")
            inside = [t.removeprefix(own) for t in imported(path, root) if t.startswith(own)]
            heads = {target.split(".")[0] for target in inside}
            targets = {head if head in self.names else "__init__" for head in heads}
            self._arrows.setdefault(name, set()).update(targets - {name})

    def floors(self, name: str | None = None, above: tuple[str, ...] = ()) -> float:
        """Length of the longest chain of imports, of all or of one name's; inf for a circle."""
        if name in above:
            return float("inf")
        if name is None:
            return max(map(self.floors, self.names), default=0)
        targets = self._arrows.get(name, ())
        return 1 + max((self.floors(target, (*above, name)) for target in targets), default=0)


def imported(path: Path, root: Path) -> Iterator[str]:
    """Full names of modules, or of what is in them, that a file imports."""
    package = ["polyak", *path.parent.relative_to(root).parts]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_kind(node: ast.ClassDef) -> bool:
    """Whether a class is a kind of average, and not what all kinds have in common."""
    methods = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
    return {"label", "weight"} <= methods and "ABC" not in map(ast.unparse, node.bases)


def decides(node: ast.AST, kinds: set[str], recorded: set[str]) -> bool:
    """Whether an expression depends on which kind an average is."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
        return bool(names_in(ast.walk(node.args[1])) & kinds)
    if isinstance(node, ast.MatchClass):
        return bool(names_in(ast.walk(node.cls)) & kinds)
    if not isinstance(node, ast.Compare):
        return False
    values = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
    return "kind" in ast.unparse(node) and bool(
        values & recorded or names_in(ast.walk(node)) & kinds
    )


def names_in(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def openings(source: Path, study: Path) -> str:
    """Openings of logs while a tree writes a study's page, and how many logs there are."""
    with tempfile.TemporaryDirectory() as folder:
        out = shutil.copytree(study.resolve().parent, Path(folder) / "out")
        run = [sys.executable, "-c", COUNT_OPENINGS, str(out / study.name)]
        where = {**os.environ, "PYTHONPATH": str(source.resolve())}
        return subprocess.check_output(run, env=where, text=True).splitlines()[-1]


def measured(source: Path, study: Path | None) -> dict[str, str]:
    """All lines of the table for one tree."""
    root = source / "polyak"
    parsed = {path: ast.parse(path.read_text("utf-8")) for path in root.rglob("*.py")}
    nodes = [(path, node) for path, tree in parsed.items() for node in ast.walk(tree)]
    kinds = {node.name: p for p, node in nodes if isinstance(node, ast.ClassDef) and is_kind(node)}
    recorded = {name.removesuffix("EMA").lower() or "ema" for name in kinds}
    others = {path: {name for name, home in kinds.items() if home != path} for path in parsed}
    near = [(p, node) for p, node in nodes if not p.is_relative_to(root / "report")]
    places = [p for p, node in near if decides(node, others[p], recorded)]
    grouped = [(p, ast.iter_child_nodes(n)) for p, n in near if isinstance(n, COLLECTIONS)]
    listing = {p for p, children in grouped if len(names_in(children) & {*kinds}) > 1}
    taking = [
        "out" in {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}
        for path, node in nodes
        if path.is_relative_to(root / "report") and isinstance(node, ast.FunctionDef)
    ]
    rooms = {name: Room(root, root / name) for name in ROOMS}
    inner = [Room(root, p.parent) for n in ROOMS[:2] for p in root.glob(f"{n}/*/__init__.py")]
    most = [max(map(count, inner), default=0) for count in (lambda r: len(r.names), Room.floors)]
    return {
        **{f"{name}: names, floors": f"{len(r.names)}, {r.floors()}" for name, r in rooms.items()},
        "a room in averaging or report, at most": f"{most[0]}, {most[1]}" if inner else "–",
        "files touched by a new average": f"{len({*places, *listing})}",
        "places that decide by kind of average": f"{len(places)}",
        "functions of report with an output folder": f"{sum(taking)} of {len(taking)}",
        **({"logs opened for a page": openings(source, study)} if study else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path, metavar="src", help="a folder src/")
    parser.add_argument("--study", type=Path, metavar="OUT/STUDY", help="a finished study")
    asked = parser.parse_args()
    columns = [measured(source, asked.study) for source in asked.sources]
    print("| | before | after |\n|---|---|---|" if len(columns) == 2 else "| | |\n|---|---|")
    for line in columns[0]:
        print("|", line, *(f"| {column[line]}" for column in columns), "|")


if __name__ == "__main__":
    main()
