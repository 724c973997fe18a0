"""Python files of a user's own, named `file.py:function`. Loading one runs its code.

They may import what lies beside them; an installed module of the same name comes first, so that
no file of a user's stands in for a package that others need.
"""

import functools
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
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
        error: Raised if file or function is missing, the file is not Python, or what it imports
            is nowhere. What else the file itself raises is passed on.
    """
    if not path.is_file():
        raise error(f"{what} is '{path}:{name}'; expected a Python file at '{path}'.")
    folder = path.resolve().parent
    _BESIDE.look_in(folder)
    try:
        module = _module(path)
    except SyntaxError as fault:
        raise error(not_python(fault, what)) from None
    except ModuleNotFoundError as fault:
        raise error(
            f"'{path}' imports {fault.name!r}, which is neither installed nor beside it; expected "
            f"{what} to be a file that runs. Install it, or put it into '{folder}'."
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value)]
        raise error(unknown(f"function of '{path}'", name, names))

    @functools.wraps(function)
    def beside_its_file(*args: Any, **kwargs: Any) -> Any:
        # It may import something only now.
        _BESIDE.look_in(folder)
        return function(*args, **kwargs)

    return beside_its_file


@contextmanager
def refusing_errors(what: str, path: Path, *, error: type[PolyakError]) -> Iterator[None]:
    """Make a refusal of whatever code of a user's raises, with the line of theirs.

    Args:
        what: Whose code runs in the block, for the message.
        path: The user's file.
        error: Raised instead.
    """
    try:
        yield
    except PolyakError:
        raise
    except Exception as fault:
        frames = traceback.extract_tb(fault.__traceback__)
        folder = path.resolve().parent
        own = [frame for frame in frames if folder in Path(frame.filename).resolve().parents]
        place = f" See line {own[-1].lineno} of '{own[-1].filename}'." if own else ""
        said = (str(fault).strip().splitlines() or [""])[0]
        raise error(
            f"{what} raises {type(fault).__name__} ({said}); expected code that runs.{place}"
        ) from fault


def not_python(fault: SyntaxError, what: str) -> str:
    """The message for a user's file, or one beside it, that cannot be parsed."""
    return (
        f"line {fault.lineno} of '{fault.filename}' is not Python ({fault.msg}); expected "
        f"{what} to be a file that runs. Fix that line."
    )


def find_beside(folder: Path, name: str) -> ModuleSpec | None:
    """The module that `import name` finds in a folder, if it is found nowhere else.

    Args:
        folder: Where a user's file lies.
        name: Of a module, without dots.
    """
    if name in sys.builtin_module_names or name in sys.stdlib_module_names:
        return None
    elsewhere = PathFinder.find_spec(name)
    beside = PathFinder.find_spec(name, [str(folder)])
    if elsewhere is None or beside is None or elsewhere.origin == beside.origin:
        return beside
    return None


class _Beside:
    """Finds modules that lie beside the user's file whose code runs, after all other finders.

    Files in two folders may import modules of one name: those of one folder are set aside while
    code of another runs.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._names: set[str] = set()
        """Top-level modules found in the folder."""
        self._aside: dict[Path | None, dict[str, ModuleType]] = {}

    def look_in(self, folder: Path) -> None:
        """Find what lies in this folder from now on."""
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        if folder == self._folder:
            return
        mine = [name for name in sys.modules if name.partition(".")[0] in self._names]
        self._aside[self._folder] = {name: sys.modules.pop(name) for name in mine}
        self._folder = folder
        back = self._aside.pop(folder, {})
        self._names = {name.partition(".")[0] for name in back}
        sys.modules.update(back)
        importlib.invalidate_caches()

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the import system asks."""
        if path is not None or self._folder is None:
            return None
        spec = PathFinder.find_spec(name, [str(self._folder)])
        if spec is not None:
            self._names.add(name)
        return spec


_BESIDE = _Beside()


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
