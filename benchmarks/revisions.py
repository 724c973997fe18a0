"""The host's part of an update and of a swap in two source trees, in turns on one machine.

git worktree add BEFORE 300916c
python benchmarks/revisions.py BEFORE/src src --rounds 40
"""

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path

import timing

WHATS = ("update, M = 5", "update, M = 1", "swap in and out")


def serve() -> None:
    """In a process with one of the trees: CPU milliseconds of what each line of stdin names."""
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

    calls = {WHATS[0]: banks[5].step, WHATS[1]: banks[1].step, WHATS[2]: swap}
    for line in sys.stdin:
        seconds = timing.alone({"it": calls[line.strip()]}, rounds=20)["it"]
        print(1e3 * timing.median(seconds), flush=True)


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
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    before, after = given.sources
    trees = {"before": Tree(before), "after": Tree(after)}
    draws = random.Random(0)
    times: dict[str, dict[str, list[float]]] = {w: {name: [] for name in trees} for w in WHATS}
    for _ in range(given.rounds):
        for what in WHATS:
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
