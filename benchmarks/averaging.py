"""Update, swap, host time and memory of averagers, ours and others'.

python benchmarks/averaging.py                 # all models, about 6 minutes on one core
python benchmarks/averaging.py --models resnet18 --rounds 7
"""

import argparse
import gc
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path

import subjects
import timing
import torch

MODELS = ("resnet18", "vgg16", "resnet50-sized", "wrn28_10")


def updates(name: str, averages: int, rounds: int) -> None:
    """CPU time of one update of all averages, against the best other tool."""
    model = subjects.subject_model(name)
    built = {tool: make(model, averages) for tool, make in subjects.SUBJECTS.items()}
    seconds = timing.interleaved({k: s.update for k, s in built.items()}, rounds=rounds)
    peers = [tool for tool in seconds if tool not in subjects.OURS]
    best = min(peers, key=lambda tool: timing.median(seconds[tool]))
    values = sum(p.numel() for p in model.parameters())
    floor = (1 + 2 * averages) * 4 * values / timing.bandwidth()
    print(f"\n### {name}, {averages} average{'s' if averages > 1 else ''}\n")
    print("| tool | median ms | of the best other: low / median / high | of the memory limit |")
    print("|---|---|---|---|")
    for tool, times in sorted(seconds.items(), key=lambda item: timing.median(item[1])):
        low, middle, high = timing.ratios(times, seconds[best])
        share = floor / timing.median(times)
        print(
            f"| {tool} | {1e3 * timing.median(times):.1f} | {low:.2f} / {middle:.2f} / {high:.2f} "
            f"| {share:.0%} |"
        )


def swaps(rounds: int) -> None:
    """CPU time of lending an average to the model and taking it back."""
    model = subjects.subject_model("resnet18")
    calls = {}
    for tool in ("polyak", "torch-ema"):
        swap = subjects.SUBJECTS[tool](model, 1).swap
        assert swap is not None
        calls[tool] = _entered(swap)
    _print_small("swap in and out", calls, rounds)


def host(rounds: int) -> None:
    """Time of an update of five averages that is not memory: ResNet-18 with tiny tensors."""
    model = subjects.shrunk(subjects.subject_model("resnet18"))
    built = {tool: make(model, 5) for tool, make in subjects.SUBJECTS.items()}
    calls = {tool: subject.update for tool, subject in built.items()}
    _print_small("host time of an update, M = 5", calls, rounds)


def _print_small(what: str, calls: dict[str, Callable[[], object]], rounds: int) -> None:
    """Small times twice: in turns with cold caches, and alone with warm ones."""
    cold = timing.interleaved(calls, rounds=rounds)
    warm = timing.alone(calls, rounds=rounds)
    for tool in calls:
        times = (1e3 * timing.median(seconds[tool]) for seconds in (cold, warm))
        print(f"| {what} | {tool} | {next(times):.2f} ms | {next(times):.2f} ms |")


def memory() -> None:
    """Growth of the resident set by five averages and two updates, in sizes of the model."""
    context = multiprocessing.get_context("spawn")
    for tool in subjects.SUBJECTS:
        with context.Pool(1) as pool:
            copies = pool.apply(_growth, (tool,))
        print(f"| memory for 5 averages, peak | {tool} | {copies:.2f} models |")


def _growth(tool: str) -> float:
    torch.set_num_threads(1)
    model = subjects.subject_model("resnet50-sized")
    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    gc.collect()
    # Linux forgets the highest mark so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    subject = subjects.SUBJECTS[tool](model, 5)
    subject.update()
    subject.update()
    return (_peak() - before) / size


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def _entered(swap: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        with swap():
            pass

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{subjects.versions()}; one thread, CPU time, {arguments.rounds} rounds interleaved")
    for name in arguments.models:
        for averages in (1, 5):
            updates(name, averages, arguments.rounds)
            gc.collect()
    print("\n| what | tool | in turns, cold | alone, warm |")
    print("|---|---|---|---|")
    host(rounds=4 * arguments.rounds)
    swaps(rounds=4 * arguments.rounds)
    print("\n| what | tool | |")
    print("|---|---|---|")
    memory()


if __name__ == "__main__":
    main()
