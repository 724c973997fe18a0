"""Banks of tests are small and read early, while warm-up alone sets their decays."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the warning of equal averages says is tested in `test_notices.py`."""
    quiet = pytest.mark.filterwarnings("ignore:.*equal so far:RuntimeWarning")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(quiet)
