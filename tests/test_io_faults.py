"""A short form of scripts/io_faults.py: every fault of the disk is said, and nothing is left."""

import os
import shutil
import subprocess
import sys

import pytest
from support.repository import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "io_faults.py"


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None,
    reason="needs Linux and a C compiler",
)
@pytest.mark.parametrize(
    "of",
    [
        pytest.param(["save", "load", "merge", "export"], id="files"),
        pytest.param(
            ["prepare", "train", "status", "evaluate", "audit"], id="runs", marks=pytest.mark.slow
        ),
    ],
)
def test_every_fault_of_the_disk_is_said_and_the_next_call_ends_right(of):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--of", *of, "--at-most", "8"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (total,) = (line for line in done.stdout.splitlines() if line.startswith("| all |"))
    points, _, _, tracebacks, silent, left, right = map(int, total.split("|")[2:-1])
    assert points >= 4 * len(of)
    assert (tracebacks, silent, left) == (0, 0, 0)
    assert right == points
