"""A fingerprint of the code that a user's network can depend on: changed code is another run.

It covers the file that has the function and whatever that imports from its folder, without
comments, docstrings and layout, and without definitions that the function does not reach by name.
What is in doubt is in.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polyak.errors import ConfigError
from polyak.userfile import find_beside, not_python

_BY_COMPUTED_NAME = {"globals", "locals", "vars", "eval", "exec", "__import__", "import_module"}
"""With these, code reaches what it does not name."""
_UNSEEN = ("ctx", "kind", "type_comment")
"""Fields of syntax trees that change nothing."""


def code_fingerprint(path: Path, function: str) -> str:
    """SHA-256, in hexadecimal digits, of the code that a function can reach.

    Paths do not count, nor does the version of Python that reads the files.

    Args:
        path: A Python file.
        function: A name in it.

    Raises:
        ConfigError: if it, or what it imports from its folder, is not Python.
    """
    parts = [part for tree in _sources(path).values() for part in _parts(*tree)]
    reached = _reached(parts, function)
    said = [[part.module, _canonical(part.node)] for part in parts if part in reached]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A statement at the top of a file."""

    module: str
    """Empty for the file itself."""

    node: ast.stmt
    defines: frozenset[str]
    """Names that nothing but a mention of them can make matter; empty if it always does."""

    mentions: frozenset[str]
    imports: bool
    bases: frozenset[str]
    """Names that a class derives from: such a base can know its classes."""


def _reached(parts: list[_Part], function: str) -> set[_Part]:
    """What always matters, what it mentions, what that mentions, and so on."""
    reached = {part for part in parts if not part.defines}
    names = {function}.union(*(part.mentions for part in reached))
    while True:
        own = {name for part in reached for name in part.defines if not part.imports}
        new = {p for p in parts if p not in reached and (p.defines & names or p.bases & own)}
        if not new:
            break
        reached |= new
        names |= {name for part in new for name in part.mentions}
    if names & _BY_COMPUTED_NAME:
        return set(parts)
    # An import that nobody mentions is there for what it does.
    rest = [part for part in parts if part not in reached]
    mentioned = {name for part in rest if not part.imports for name in part.mentions}
    return reached | {p for p in rest if p.imports and not p.defines & mentioned}


def _sources(path: Path) -> dict[Path, tuple[str, ast.Module]]:
    """The file, and all that it and they import from its folder, by path: name and tree."""
    folder = path.resolve().parent
    found: dict[Path, tuple[str, ast.Module]] = {}
    waiting = [(path.resolve(), "")]
    while waiting:
        file, module = waiting.pop()
        if file in found:
            continue
        found[file] = (module, _parsed(file))
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for name in sorted(_imported(found[file][1], package)):
            waiting += _files_of(folder, name)
    # Not in the order in which they were met: it is nothing that a result depends on.
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def _files_of(folder: Path, module: str) -> Iterator[tuple[Path, str]]:
    """Files in the folder that importing `a.b.c` runs: those of a, a.b and a.b.c."""
    parts = module.split(".")
    if find_beside(folder, parts[0]) is None:
        return
    for depth in range(1, len(parts) + 1):
        stem = folder.joinpath(*parts[:depth])
        for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
            if file.is_file():
                yield file.resolve(), ".".join(parts[:depth])
                break


def _imported(tree: ast.Module, package: str) -> set[str]:
    """Modules that a file may import anywhere in it, in full."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            found |= {f"{base}.{alias.name}".lstrip(".") for alias in node.names} | {base}
    return found - {""}


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as fault:
        raise ConfigError(not_python(fault, "model.name")) from None
    except ValueError as fault:
        raise ConfigError(f"'{file}' is not Python ({fault}); expected a file that runs.") from None


def _parts(module: str, tree: ast.Module) -> Iterator[_Part]:
    for node in tree.body:
        if _does_nothing(node) or _is_for_running_alone(node):
            continue
        imports = isinstance(node, ast.Import | ast.ImportFrom)
        bases = node.bases if isinstance(node, ast.ClassDef) else []
        yield _Part(
            module,
            node,
            defines=frozenset(_defined(node)),
            # What an import takes from where counts once somebody mentions it.
            mentions=frozenset(_mentioned(node)),
            imports=imports,
            bases=frozenset(name for base in bases for name in _mentioned(base)),
        )


def _does_nothing(node: ast.stmt) -> bool:
    """Whether this is a docstring, an ellipsis or `pass`."""
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Pass)


def _is_for_running_alone(node: ast.stmt) -> bool:
    """Whether this is `if __name__ == "__main__":`, which is not run here."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "__name__ == '__main__'",
        "'__main__' == __name__",
    )


def _defined(node: ast.stmt) -> set[str]:
    """Names of a statement that does nothing but define them; empty for all others."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return set() if node.decorator_list else {node.name}
    if isinstance(node, ast.ClassDef):
        active = node.decorator_list or node.keywords
        return set() if active or not all(map(_only_defines, node.body)) else {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        bound = {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        return set() if future or "*" in bound else bound
    return _assigned(node) if _only_defines(node) else set()


def _only_defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    calls = any(isinstance(part, ast.Call) for part in ast.walk(node))
    return _does_nothing(node) or (isinstance(node, ast.Assign | ast.AnnAssign) and not calls)


def _assigned(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    parts = [part for target in targets for part in ast.walk(target)]
    plain = ast.Name | ast.Tuple | ast.List | ast.expr_context
    # Assigning to an attribute or an item changes something that has another name.
    if not all(isinstance(part, plain) for part in parts):
        return set()
    return {part.id for part in parts if isinstance(part, ast.Name)}


def _mentioned(tree: ast.AST) -> Iterator[str]:
    """Every name in a piece of code, also as an attribute, an import or a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Call) and _is_computed_getattr(node):
            yield "vars"


def _is_computed_getattr(call: ast.Call) -> bool:
    named = isinstance(call.func, ast.Name) and call.func.id == "getattr"
    return named and not (len(call.args) > 1 and isinstance(call.args[1], ast.Constant))


def _canonical(node: object) -> object:
    """A syntax tree as JSON values: what all versions of Python have in common of it."""
    if isinstance(node, ast.AST):
        fields = {
            name: _canonical(value)
            for name, value in ast.iter_fields(node)
            if name not in _UNSEEN and value not in (None, [])
        }
        # None is a value as well.
        value = {"value": repr(node.value)} if isinstance(node, ast.Constant) else {}
        return [type(node).__name__, dict(sorted({**fields, **value}.items()))]
    if isinstance(node, list):
        kept = [x for x in node if not (isinstance(x, ast.stmt) and _does_nothing(x))]
        return [_canonical(value) for value in kept]
    return node if isinstance(node, str | int | bool | None) else repr(node)
