"""Kills runs with SIGKILL at random moments, starts them again, and compares how they end.

    python scripts/kill_test.py --kills 200

Every session is a process of its own, forked from one that has everything imported, so that a
life is short and most kills meet a run at work: in a step, in an evaluation, while a checkpoint
or a result is being written. Checkpoints follow on each other without a pause.
"""

import argparse
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from polyak.averaging import load as load_weights
from polyak.data import DataConfig, NoiseConfig, prepare
from polyak.models import ModelConfig
from polyak.records.predictions import Predictions
from polyak.records.runs import RunFolder, run_folder
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.jobs import carry_out
from polyak.training.machine import environment
from polyak.training.optim import OptimConfig


@dataclass(slots=True)
class Tally:
    """What happened."""

    kills: int = 0
    runs: int = 0
    resumed: int = 0
    """Sessions that began with a checkpoint."""

    in_results: int = 0
    """Kills after the last epoch: while arms and predictions were being written."""

    identical: int = 0
    """Runs that ended as the one that was never killed."""


def main() -> int:
    """Exit code: 0 if every run ended identical, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=None, help="stop early after so long")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("POLYAK_CACHE", str(Path(folder, "cache")))
        tally = kill_test(
            Path(folder), kills=options.kills, seconds=options.seconds, seed=options.seed
        )
    facts = environment(torch.device("cpu"))
    print(
        f"{tally.kills} kills of {tally.runs} runs: {tally.resumed} sessions began with a "
        f"checkpoint, {tally.in_results} kills fell while results were being written, "
        f"{tally.identical} of {tally.runs} runs ended bit-identical"
    )
    print(f"{date.today()}, {facts['processor']}, torch {facts['torch']}, {platform.system()}")
    return 0 if tally.identical == tally.runs else 1


def kill_test(folder: Path, *, kills: int, seconds: float | None = None, seed: int = 0) -> Tally:
    """Kill runs, each some times before it may end, until there were so many kills."""
    config = small_run()
    chance = random.Random(seed)
    in_a_process(lambda: carry_out(config, folder / "whole", checkpoint_seconds=1e9))
    whole = result(run_folder(folder / "whole", config.id))
    began = time.monotonic()
    in_a_process(lambda: carry_out(config, folder / "timed", checkpoint_seconds=0))
    # Long enough that some sessions end the run, short enough that most do not.
    longest = time.monotonic() - began
    tally = Tally()
    while tally.kills < kills and (seconds is None or time.monotonic() - began < seconds):
        tally.runs += 1
        out = folder / f"killed-{tally.runs}"
        here = min(chance.randint(1, 8), kills - tally.kills)
        bring_to_its_end(config, out, tally, chance, longest=longest, kills=here)
        tally.identical += result(run_folder(out, config.id)) == whole
    return tally


def bring_to_its_end(
    config: RunConfig, out: Path, tally: Tally, chance: random.Random, *, longest: float, kills: int
) -> None:
    """Sessions of random length, after so many kills the last one as long as it takes."""
    run = run_folder(out, config.id)
    life: float | None
    kills += tally.kills
    while run.ending is None:
        tally.resumed += any(run.checkpoints.glob("at-*"))
        life = chance.uniform(0.0, longest)
        if tally.kills >= kills:
            life = None
        # Some sessions write a checkpoint at every step, some seldom.
        pause = chance.choice([0.0, 0.0, longest / 10])
        killed = in_a_process(lambda p=pause: carry_out(config, out, checkpoint_seconds=p), life)
        tally.kills += killed
        tally.in_results += killed and len(run.epochs()) == config.epochs and not run.ending
    # Whoever asks for a run that has ended removes what a kill after its last line has left.
    in_a_process(lambda: carry_out(config, out))


def in_a_process(work: Callable[[], None], life: float | None = None) -> bool:
    """Do some work in a forked process; whether it was killed because its time was up."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    deadline = None if life is None else time.monotonic() + life
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"a session ended with {os.waitstatus_to_exitcode(status)}")
            return False
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            return os.WIFSIGNALED(status)
        time.sleep(0.001)


def small_run() -> RunConfig:
    """A run of about a second with all that is in a large one."""
    noise = NoiseConfig(kind="symmetric", rate=0.3)
    data = DataConfig(train_limit=90, test_limit=40, crop_padding=1, noise=noise)
    return RunConfig(
        data=prepare(data),
        model=ModelConfig(name="resnet8", width=4),
        optim=OptimConfig(lr=0.1, warmup_epochs=1),
        averaging=AveragingConfig(decays=(0.2, 0.9), every=3),
        epochs=4,
        batch_size=16,
        monitors=("test", "test_bn"),
    )


def result(run: RunFolder) -> dict[str, Any]:
    """All that a run left, to the bit, but for the time it took and what is not a result."""
    predictions = Predictions(run.predictions)
    found: dict[str, Any] = {
        "names": sorted(
            str(path.relative_to(run.path))
            for path in run.path.rglob("*")
            if path.is_file() and path.name != "LOCK"
        ),
        "config": run.config(),
        "epochs": [asdict(replace(record, seconds=0.0)) for record in run.epochs()],
        "monitors": [asdict(record) for record in run.monitors()],
        "ending": {**run.facts(), "seconds": 0.0},
        "labels": {
            part: predictions.labels_n(part, "labels" if part == "test" else "given").tolist()
            for part in ("test", "holdout", "train")
        },
    }
    for arm in predictions.arms("test"):
        weights = load_weights(run.arm(arm))
        found[arm] = {
            "logits": bits(predictions.logits_nk("test", arm)),
            "holdout": bits(predictions.logits_nk("holdout", arm)),
            "train": bits(predictions.predicted_n("train", arm)),
            "weights": {key: bits(x) for key, x in weights[arm].items()},
            "manifest": weights.manifest,
        }
    return found


def bits(x: torch.Tensor) -> bytes:
    """The bytes of a tensor."""
    return x.contiguous().numpy().tobytes()


if __name__ == "__main__":
    raise SystemExit(main())
