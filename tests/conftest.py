"""Settings that every test shares: repeatable draws, and where real data lies."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# They are plugins: as modules, which --doctest-modules makes of them, they all have one name.
collect_ignore_glob = ["*conftest.py"]

# torch's first call in a process can take a second, which is no fault of the test.
settings.register_profile("polyak", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("polyak")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: begun last, each would keep one worker while the others have no more."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that POLYAK_TEST_DATA names; the test is skipped without it."""
    folder = os.environ.get("POLYAK_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("POLYAK_TEST_DATA names no folder of real data")
    return Path(folder)
