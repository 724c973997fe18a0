"""Data that a user's own Python file makes: `file.py:load`."""

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from polyak.data.images import DataSet, ImageSet
from polyak.errors import DataError, unknown

_REFERENCE = re.compile(r"(?P<path>.+\.py):(?P<function>\w+)")


def parse_reference(source: str) -> tuple[Path, str] | None:
    """Path and name of the function in `file.py:load`, or None if `source` is no such thing."""
    match = _REFERENCE.fullmatch(source)
    return (Path(match["path"]).expanduser(), match["function"]) if match else None


def decode_user_file(path: Path, function: str) -> tuple[ImageSet, ImageSet]:
    """Run the function, which takes nothing and returns a DataSet or (train, test).

    Raises:
        DataError: if file or function is missing or the result is something else. What the
            function itself raises is passed on.
    """
    if not path.is_file():
        raise DataError(f"source is '{path}:{function}'; expected a Python file at '{path}'.")
    load: Any = getattr(_module(path), function, None)
    if not callable(load):
        names = [name for name, value in vars(_module(path)).items() if callable(value)]
        raise DataError(unknown(f"function of '{path}'", function, names))
    made = load()
    if isinstance(made, DataSet):
        return made.train, made.test
    if isinstance(made, tuple) and [type(part) for part in made] == [ImageSet, ImageSet]:
        return made
    raise DataError(
        f"'{path}:{function}' returned a {type(made).__name__}; "
        "expected a polyak.data.DataSet or a tuple (train, test) of ImageSets."
    )


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
