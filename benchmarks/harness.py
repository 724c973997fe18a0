"""A study epoch: training with five averages, six evaluations, BatchNorm recomputation.

python benchmarks/harness.py --images 10000 --rounds 5
python benchmarks/harness.py --images 10000 --rounds 5 --cores 2 --pieces train evaluate
python benchmarks/harness.py --pieces train evaluate --ways "plain PyTorch" "polyak, bfloat16"
python benchmarks/harness.py --device cuda --model resnet18 --images 50000 --loader-workers 8

Each way of writing it has a process of its own, since an allocator's settings are a process's,
and they take turns: one computes, the others wait. With several cores, ours is as many runs side
by side, of one thread each, as `polyak study` has it, and an epoch costs its share of their time;
the others are one process of as many threads, as torch has it.
"""

import argparse
import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any

import limits
import timing
import torch
from study_epochs import SUBSET, Ours, Setting, Subject, Usual

USUAL_WAYS = ("polyak", "plain PyTorch", "Lightning")
WAYS = {
    "polyak": Ours,
    "polyak, evaluation in bfloat16": partial(Ours, evaluated_in="bfloat16"),
    "polyak, bfloat16": partial(Ours, precision="bfloat16"),
    "plain PyTorch": Usual,
    "plain PyTorch, bfloat16": partial(Usual, precision="bfloat16"),
}
PIECES = ("train", "evaluate", "subset", "full")
EPOCHS = {
    "BN recomputation off": ("train", "evaluate"),
    f"BN recomputation on {SUBSET:,} images": ("train", "evaluate", "subset"),
    "BN recomputation on all": ("train", "evaluate", "full"),
}
"""Which pieces an epoch of each kind consists of."""

Seconds = dict[str, dict[str, list[float]]]
"""By way and piece, one value a round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="a fifth is held out")
    parser.add_argument("--size", type=int, default=32, help="of an image, in pixels")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=(*WAYS, "Lightning"), default=USUAL_WAYS)
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=PIECES)
    arguments = parser.parse_args()
    setting = Setting(
        images=arguments.images,
        model=arguments.model,
        device=arguments.device,
        size=arguments.size,
        loader_workers=arguments.loader_workers,
    )
    os.environ |= {"OMP_NUM_THREADS": "1"}
    names = f"torch {torch.__version__}"
    if "Lightning" in arguments.ways:
        names += f", lightning {version('lightning')}"
    print(f"{names}; {setting}; {arguments.cores} cores; {arguments.rounds} rounds in turns")
    pools = {way: _processes(way, setting, arguments.cores) for way in arguments.ways}
    try:
        seconds = in_turns(pools, arguments.pieces, arguments.rounds)
        parts = {way: each[0].submit(_parts).result() for way, each in pools.items()}
        peaks = {way: each[0].submit(_peak).result() for way, each in pools.items()}
    finally:
        for pool in (pool for each in pools.values() for pool in each):
            pool.shutdown(cancel_futures=True)
    print_epochs(seconds)
    print_parts(seconds, parts, peaks)
    if setting.device != "cpu" and "polyak" in seconds:
        limits.print_share(setting, seconds["polyak"])


def in_turns(pools: dict[str, list[ProcessPoolExecutor]], pieces: Any, rounds: int) -> Seconds:
    """Each piece of each way once a round, in an order drawn anew."""
    draws = random.Random(0)
    seconds: Seconds = {way: {piece: [] for piece in pieces} for way in pools}
    for round_ in range(rounds + 1):
        for piece in pieces:
            for way in draws.sample(list(pools), len(pools)):
                together = [pool.submit(_piece, piece) for pool in pools[way]]
                taken = max(each.result() for each in together)
                # The first round only warms up.
                if round_:
                    seconds[way][piece].append(taken / len(together))
    return seconds


def print_epochs(seconds: Seconds) -> None:
    """Epochs of all kinds, and how many of the first way's go into one of another's."""
    first = next(iter(seconds))
    print(f"\n| epoch | way | s | of {first}: low / median / high |")
    print("|---|---|---|---|")
    for kind, pieces in EPOCHS.items():
        if not all(piece in next(iter(seconds.values())) for piece in pieces):
            continue
        totals = {
            way: [sum(each) for each in zip(*(found[piece] for piece in pieces), strict=True)]
            for way, found in seconds.items()
        }
        for way, times in totals.items():
            low, middle, high = timing.ratios(times, next(iter(totals.values())))
            row = f"{timing.median(times):.2f} | {low:.2f} / {middle:.2f} / {high:.2f}"
            print(f"| {kind} | {way} | {row} |")


def print_parts(seconds: Seconds, parts: dict[str, dict[str, float]], peaks: Any) -> None:
    """Where an epoch's time goes; the parts of training are of one epoch alone."""
    names = ("input", "optimizer", "averaging")
    pieces = list(next(iter(seconds.values())))
    heads = ["way", "input", "forward and backward", *names[1:], *pieces, "peak MB"]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for way, found in parts.items():
        rest = found["train"] - sum(found.get(name, 0.0) for name in names)
        inside = [f"{found[name]:.3f}" if name in found else "" for name in names]
        inside.insert(1, f"{rest:.3f}" if len(found) > 1 else "")
        whole = [f"{timing.median(times):.2f}" for times in seconds[way].values()]
        print(f"| {way} | {' | '.join(inside)} | {' | '.join(whole)} | {peaks[way]:.0f} |")


def _processes(way: str, setting: Setting, cores: int) -> list[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    runs, threads = (cores, 1) if way.startswith("polyak") else (1, cores)
    # By the processor's clock where there is one thread, which other jobs on the machine disturb
    # least. Workers of loaders are other processes, so then the wall's must do.
    clock = "process_time" if cores == 1 and not setting.loader_workers else "perf_counter"
    return [
        ProcessPoolExecutor(
            1, context, initializer=_prepare, initargs=(way, setting, threads, clock)
        )
        for _ in range(runs)
    ]


def _prepare(way: str, setting: Setting, threads: int, clock: str) -> None:
    """Build a way's subject in its own process, where the functions below find it."""
    global _SUBJECT, _NOW
    torch.set_num_threads(threads)
    _NOW = getattr(time, clock) if setting.device == "cpu" else timing.synchronised
    if way == "Lightning":
        from lightning_epochs import Lightning

        _SUBJECT = Lightning(setting)
    else:
        _SUBJECT = WAYS[way](setting)


_SUBJECT: Subject
_NOW: Callable[[], float]


def _piece(name: str) -> float:
    calls = {
        "train": _SUBJECT.train,
        "evaluate": _SUBJECT.evaluate,
        "subset": lambda: _SUBJECT.recompute(SUBSET),
        "full": lambda: _SUBJECT.recompute(None),
    }
    started = _NOW()
    calls[name]()
    return _NOW() - started


def _parts() -> dict[str, float]:
    """Seconds of the parts of one epoch of training, and of the whole."""
    seconds: dict[str, float] = {}

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            started = _NOW()
            try:
                return call(*args, **options)
            finally:
                seconds[part] = seconds.get(part, 0.0) + _NOW() - started

        return counted

    _SUBJECT.watch(timed)
    return {"train": _piece("train")} | seconds


def _peak() -> float:
    """Largest resident set so far, in MB (Linux counts in KB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
