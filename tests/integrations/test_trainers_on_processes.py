"""Averages through other tools on two processes, in shards and under DDP, each tool as launched."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.oracle,
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="this torch has no gloo",
    ),
]


def torchrun(processes: int, script: str, *arguments: object) -> None:
    """Run a script of tests/support on some processes; each asserts what must hold there."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *launcher, TESTS / "support" / script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-6000:]


def needs(*names: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            pytest.importorskip(name, reason="the extra polyak[integrations] is not installed")


def test_lightnings_model_parallel_strategy_keeps_and_saves_shards(tmp_path):
    """As a folder of shards and as one file, the average being the model that is saved."""
    needs("lightning.pytorch")
    torchrun(2, "lightning_shards.py", "save", tmp_path)
    assert (tmp_path / "folder" / "polyak.Averaging" / ".metadata").is_file()
    torchrun(1, "lightning_shards.py", "resume", tmp_path)


def test_accelerate_and_the_trainer_keep_and_save_shards_of_fsdp2(tmp_path):
    needs("accelerate", "transformers")
    torchrun(2, "accelerate_shards.py", "save", tmp_path)
    assert (tmp_path / "state" / "averager_0" / ".metadata").is_file()
    assert (tmp_path / "trainer" / "checkpoint-6" / "averager" / ".metadata").is_file()
    torchrun(1, "accelerate_shards.py", "resume", tmp_path)


def test_accelerate_and_the_trainer_save_the_average_under_ddp(tmp_path):
    needs("accelerate", "transformers")
    torchrun(2, "ddp_trainers.py", "save", tmp_path)
    torchrun(2, "ddp_trainers.py", "resume", tmp_path)
