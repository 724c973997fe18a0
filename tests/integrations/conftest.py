"""Banks of tests are small and read early, while warm-up alone sets their decays."""

import warnings

import pytest


@pytest.fixture(autouse=True)
def equal_averages_are_no_fault() -> None:
    """What the warning of equal averages says is tested in `test_readings.py`.

    pytest restores the filters after each test.
    """
    warnings.filterwarnings("ignore", message=".*equal so far", category=RuntimeWarning)
