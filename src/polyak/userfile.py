"""Python files of a user's own, named `file.py:function`. Loading one runs its code."""

import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from polyak.errors import PolyakError, unknown

_REFERENCE = re.compile(r"(?P<path>.+\.py):(?P<function>\w+)")


def parse_reference(text: str) -> tuple[Path, str] | None:
    """Path and name of the function in `file.py:function`, or None if `text` is not of that form.

    Example:
        >>> parse_reference("nets.py:build")
        (PosixPath('nets.py'), 'build')
    """
    match = _REFERENCE.fullmatch(text)
    return (Path(match["path"]).expanduser(), match["function"]) if match else None


def load_function(
    path: Path, name: str, *, what: str, error: type[PolyakError]
) -> Callable[..., Any]:
    """A function of a user's file.

    Args:
        path: The file; it is run once a process.
        name: The function.
        what: What the file was given as, for messages.
        error: Raised if file or function is missing, or the file is not Python. What the file
            itself raises is passed on.
    """
    if not path.is_file():
        raise error(f"{what} is '{path}:{name}'; expected a Python file at '{path}'.")
    try:
        module = _module(path)
    except SyntaxError as fault:
        raise error(
            f"line {fault.lineno} of '{fault.filename}' is not Python ({fault.msg}); expected "
            f"{what} to be a file that runs. Fix that line."
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value)]
        raise error(unknown(f"function of '{path}'", name, names))
    return function  # type: ignore[no-any-return]  # any callable of a user's module


def _module(path: Path) -> ModuleType:
    """The file as a module, named by its path so that two files of one name do not meet."""
    name = f"polyak_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it is being run.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
