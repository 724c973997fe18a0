"""Two source trees in turns on one machine: the host's part of an update and of a swap, and what
follows the last epoch of a run.

git worktree add BEFORE 300916c
python benchmarks/revisions.py BEFORE/src src --rounds 40
python benchmarks/revisions.py BEFORE/src src --rounds 6 --of arms
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timing

WHATS = {
    "host": ("update, M = 5", "update, M = 1", "swap in and out"),
    "arms": ("arms after 2 epochs", "arms after 6 epochs"),
}


def serve() -> None:
    """In a process with one of the trees: CPU milliseconds of what each line of stdin names."""
    calls: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        what = line.strip()
        if what in WHATS["arms"]:
            seconds = after_the_last_epoch(epochs=int(what.split()[2]))
        else:
            calls = calls or host_calls()
            seconds = timing.median(timing.alone({"it": calls[what]}, rounds=20)["it"])
        print(1e3 * seconds, flush=True)


def host_calls() -> dict[str, Callable[[], object]]:
    """By name, what is timed beside a training loop, on ResNet-18 with tiny tensors."""
    import subjects
    import torch

    import polyak

    torch.set_num_threads(1)
    model = subjects.shrunk(subjects.subject_model("resnet18"))
    banks = {m: polyak.Averager(model, [1 - 2.0**-k for k in range(3, 3 + m)]) for m in (1, 5)}
    for bank in banks.values():
        bank.step()
        bank.coinciding()

    def swap() -> None:
        with banks[1].applied(banks[1].names[0]):
            pass

    return dict(zip(WHATS["host"], (banks[5].step, banks[1].step, swap), strict=True))


def after_the_last_epoch(*, epochs: int) -> float:
    """CPU seconds of `polyak train` on digits from the end of its last epoch on."""
    import torch

    from polyak.data import DataConfig, prepare
    from polyak.training.config import RunConfig
    from polyak.training.jobs import carry_out
    from polyak.training.optim import OptimConfig

    torch.set_num_threads(1)
    config = RunConfig(
        data=prepare(DataConfig()), epochs=epochs, optim=OptimConfig(warmup_epochs=1)
    )
    ends = []
    with tempfile.TemporaryDirectory() as out:
        carry_out(config, Path(out), on_epoch=lambda _: ends.append(time.process_time()))
    return time.process_time() - ends[-1]


class Tree:
    """A process that times one source tree."""

    def __init__(self, source: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(source).resolve())}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def milliseconds(self, what: str) -> float:
        """Median of a few, by the processor's clock, with warm caches."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


def main() -> None:
    """Print medians, and ratios round by round, after to before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", help="two folders that hold polyak/")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--of", choices=WHATS, default="host")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    before, after = given.sources
    trees = {"before": Tree(before), "after": Tree(after)}
    draws = random.Random(0)
    times: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in trees} for what in WHATS[given.of]
    }
    for _ in range(given.rounds):
        for what in WHATS[given.of]:
            for name in draws.sample(list(trees), 2):
                times[what][name].append(trees[name].milliseconds(what))
    print("| what | before, ms | after, ms | after / before: low / median / high |")
    print("|---|---|---|---|")
    for what, found in times.items():
        low, middle, high = timing.ratios(found["after"], found["before"])
        medians = " | ".join(f"{timing.median(found[name]):.3f}" for name in trees)
        print(f"| {what} | {medians} | {low:.2f} / {middle:.2f} / {high:.2f} |")


if __name__ == "__main__":
    main()
