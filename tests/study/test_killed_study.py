"""The parent of a study is killed while runs go on and while its report is written."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.repository import REPOSITORY

import polyak

SOURCE = str(Path(polyak.__file__).resolve().parents[1])
STUDY = REPOSITORY / "scripts" / "small_study.py"


def begin(folder: Path) -> subprocess.Popen[bytes]:
    words = ["study", str(STUDY), "--out", str(folder / "out"), "--workers", "1"]
    return subprocess.Popen(
        [sys.executable, "-c", "from polyak.cli.main import entry; entry()", *words],
        env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def content(folder: Path) -> dict[str, str]:
    """All that a study leaves, but for times, for what names times, and for files of tensors, whose
    bytes may be in any order."""
    found = {}
    for path in sorted((folder / "out").rglob("*")):
        name = str(path.relative_to(folder / "out"))
        if path.is_dir() or path.suffix in (".safetensors", ".html"):
            continue
        if path.suffix == ".json" or path.name == "DONE":
            record = json.loads(path.read_text())
            for key in ("seconds", "sha256", "lines", "command"):
                record.pop(key, None)
            found[name] = json.dumps(record, sort_keys=True)
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = repr([{**line, "seconds": 0} for line in lines])
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.slow
@pytest.mark.skipif(not STUDY.exists(), reason="needs the repository")
def test_a_study_whose_parent_is_killed_ends_as_one_that_was_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYAK_CACHE", str(tmp_path / "cache"))
    chance = random.Random(0)
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    assert begin(tmp_path / "alone").wait() == 0
    killed = tmp_path / "killed"
    for _ in range(3):
        process = begin(killed)
        time.sleep(chance.uniform(4, 12))
        process.kill()
        process.wait()
    in_report = 0
    for _ in range(3):
        process = begin(killed)
        while process.poll() is None and not any((killed / "out" / "small").glob("re*")):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1))
        in_report += process.poll() is None
        process.kill()
        process.wait()
        for path in (killed / "out" / "small").rglob("*"):
            # Each file is whole, or not there.
            if path.suffix == ".json":
                json.loads(path.read_text())
    assert in_report
    assert begin(killed).wait() == 0
    assert content(killed) == content(tmp_path / "alone")
