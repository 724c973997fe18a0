"""What five averages cost a real training loop: ResNet-20, batch 128, 32×32 images.

python benchmarks/training.py --rounds 8
"""

import argparse
import time

import timing
import torch
import torch.nn.functional as F
from subjects import DECAYS
from torch import nn

from polyak import Averager
from polyak.models import ModelConfig, build

STEPS = 16
"""Steps of one timing: one period of T = 16."""


class Loop:
    """A model in training, with or without averages."""

    def __init__(self, every: int | None) -> None:
        size = ModelConfig(name="resnet20")
        model = build(size, classes=10, channels=3, image_size=32, generator_seed=0)
        self.model: nn.Module = model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
        )
        if every is not None:
            Averager(self.model, DECAYS, every=every).attach(self.optimizer)
        draws = torch.Generator().manual_seed(0)
        images = torch.randn(128, 3, 32, 32, generator=draws)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (128,), generator=draws)

    def run(self) -> None:
        for _ in range(STEPS):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.images), self.labels).backward()
            self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loops = {"no averages": Loop(None), "T = 1": Loop(1), "T = 16": Loop(16)}
    started = time.monotonic()
    seconds = timing.interleaved(
        {name: loop.run for name, loop in loops.items()}, rounds=arguments.rounds, flush=False
    )
    print("| five averages | CPU ms a step | of none: low / median / high |")
    print("|---|---|---|")
    for name, times in seconds.items():
        low, middle, high = timing.ratios(times, seconds["no averages"])
        each = 1e3 * timing.median(times) / STEPS
        print(f"| {name} | {each:.1f} | {low:.3f} / {middle:.3f} / {high:.3f} |")
    print(f"{arguments.rounds} rounds of {STEPS} steps, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
