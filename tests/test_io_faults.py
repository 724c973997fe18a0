"""A short form of scripts/io_faults.py: every fault of the disk is said, and nothing is left."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import polyak

ROOT = Path(polyak.__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "io_faults.py"


@pytest.mark.skipif(
    not SCRIPT.exists() or sys.platform != "linux" or shutil.which("cc") is None,
    reason="needs Linux, a C compiler and the repository",
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
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (total,) = (line for line in done.stdout.splitlines() if line.startswith("| all |"))
    points, _, _, tracebacks, silent, left, right = map(int, total.split("|")[2:-1])
    assert points >= 4 * len(of)
    assert (tracebacks, silent, left) == (0, 0, 0)
    assert right == points
