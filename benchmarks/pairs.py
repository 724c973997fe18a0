"""Every pair of a study's runs compared: all at once, against the metrics of two runs one by one.

python benchmarks/pairs.py
"""

import argparse
from itertools import combinations

import torch
from timing import interleaved, median, ratios
from torch import Tensor

from polyak import metrics

RUNS = 10
CASES = {"text, 4,096 positions": (4_096, 256), "CIFAR-10, 10,000 images": (10_000, 10)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    print(f"| {RUNS} runs | one by one, ms a pair | at once | ratio: low, median, high |")
    print("|---|---|---|---|")
    for name, (samples, classes) in CASES.items():
        logits = [3 * torch.randn(samples, classes, generator=draw) for _ in range(RUNS)]
        labels_n = torch.randint(classes, (samples,), generator=draw)
        print(f"| {name} | {' | '.join(measured(logits, labels_n, rounds=rounds))} |")


def measured(logits: list[Tensor], labels_n: Tensor, *, rounds: int) -> list[str]:
    """Milliseconds a pair either way, and their ratio."""
    seconds = interleaved(
        {
            "one by one": lambda: one_by_one(logits, labels_n),
            "at once": lambda: list(metrics.differences(logits, labels_n)),
        },
        rounds=rounds,
    )
    pairs = RUNS * (RUNS - 1) / 2
    times = [f"{1e3 * median(each) / pairs:.1f}" for each in seconds.values()]
    ratio = ", ".join(f"{x:.2f}" for x in ratios(seconds["at once"], seconds["one by one"]))
    return [*times, ratio]


def one_by_one(logits: list[Tensor], labels_n: Tensor) -> None:
    for a, b in combinations(logits, 2):
        metrics.churn(a, b)
        metrics.js_divergence(a, b)
        metrics.js_paper_code(a, b)
        metrics.agreement(a, b, labels_n)


if __name__ == "__main__":
    main()
