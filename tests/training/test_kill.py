"""Real processes, killed with SIGKILL; many more by hand with the script itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

import polyak

ROOT = Path(__file__).resolve().parents[2]


def test_killed_runs_end_bit_identical():
    source = str(Path(polyak.__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "kill_test.py"), "--kills", "3"],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills, runs, identical = re.search(
        r"(\d+) kills of (\d+) runs.* (\d+) of", done.stdout
    ).groups()
    assert int(kills) >= 3
    assert runs == identical
