"""Fair timing on a noisy machine: everything in one process, in random order, round by round."""

import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch

FLUSH = torch.zeros(24_000_000)
"""96 MB that are written between two timings, so that nothing starts with a warm cache."""


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, flush: bool = True
) -> dict[str, list[float]]:
    """CPU seconds of each call in each round; the order is drawn anew in every round.

    With more than one thread seconds by the wall's clock, since threads that wait burn CPU time.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    draws = random.Random(0)
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in draws.sample(list(calls), len(calls)):
            if flush:
                FLUSH.add_(1.0)
            started = clock()
            calls[name]()
            seconds[name].append(clock() - started)
    return seconds


def alone(calls: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call again and again by itself, with everything in cache."""
    seconds = {}
    for name, call in calls.items():
        call()
        seconds[name] = []
        for _ in range(rounds):
            started = time.process_time()
            call()
            seconds[name].append(time.process_time() - started)
    return seconds


def synchronised() -> float:
    """Seconds by the wall's clock when the GPU has done all it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def median(values: list[float]) -> float:
    """Middle value."""
    return statistics.median(values)


def ratios(ours: list[float], peer: list[float]) -> tuple[float, float, float]:
    """Lowest, median and highest ratio over rounds."""
    each = sorted(a / b for a, b in zip(ours, peer, strict=True))
    return each[0], statistics.median(each), each[-1]


def bandwidth() -> float:
    """Bytes a CPU second of c = a + b on 64 MB arrays, best of nine: the machine's limit today."""
    a, b, c = (torch.ones(16_000_000) for _ in range(3))
    best = min(_seconds(lambda: torch.add(a, b, out=c)) for _ in range(9))
    return 3 * 4 * a.numel() / best


def _seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started
