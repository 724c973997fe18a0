"""Names that are imported when they are asked for."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("averaging", "data", "models")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_offers_what_it_lists_and_finds_all_of_it(name):
    package = importlib.import_module(f"polyak.{name}")
    homes = [each for names in package._HOMES.values() for each in names]
    assert sorted(homes) == sorted(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    for home, names in package._HOMES.items():
        module = importlib.import_module(f"{package.__name__}.{home}")
        assert all(getattr(package, each) is getattr(module, each) for each in names)


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_are_told_of_the_same_names_in_the_same_places(name):
    package = importlib.import_module(f"polyak.{name}")
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    [block, *_] = (node for node in tree.body if isinstance(node, ast.If))
    # Only what is imported "as" itself is offered to them.
    told = [(x.module, each.name, each.asname) for x in block.body for each in x.names]
    found = [
        (f"polyak.{name}.{home}", each, each)
        for home, names in package._HOMES.items()
        for each in names
    ]
    assert sorted(told) == sorted(found)


@pytest.mark.parametrize("name", PACKAGES)
def test_no_module_of_a_package_has_the_name_of_something_that_it_offers(name):
    """It would take that name's place when it is imported."""
    package = importlib.import_module(f"polyak.{name}")
    for each in package.__all__:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"{package.__name__}.{each}")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_imported_without_torch(name):
    code = f"import sys, polyak.{name}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_unknown_name_is_a_plain_attribute_error():
    package = importlib.import_module("polyak.data")
    with pytest.raises(AttributeError, match=r"module 'polyak\.data' has no attribute 'lode'"):
        package.lode  # noqa: B018 (asking is what is tested)
    with pytest.raises(ImportError, match="cannot import name 'lode'"):
        exec("from polyak.data import lode")
