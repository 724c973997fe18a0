"""Names of a package that are imported when they are asked for.

So those of its modules that need no torch can be imported without. No module of a package may have
the name of something that the package offers: it would take that name's place once imported.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(
    package: str, homes: Mapping[str, tuple[str, ...]], *, modules: tuple[str, ...] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A package's `__getattr__`, `__dir__` and `__all__`; its imports for type checkers are apart.

    Args:
        package: Its name.
        homes: For modules in it, the names that the package offers from there.
        modules: Modules in it that are reached as its attributes.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home_of[name]}"), name)

    names = sorted({*home_of, *modules})
    return find, lambda: sorted({*vars(import_module(package)), *names}), names
