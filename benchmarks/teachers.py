"""A loop with a teacher: a live model against a deep copy that is moved by hand.

python benchmarks/teachers.py --rounds 30

Every way trains the same student with the same teacher at the same moment; a step is the
teacher's forward pass, the student's forward and backward pass, the optimizer's step and the
teacher's update. Beside it, that update alone.
"""

import argparse
import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from timing import interleaved, median, ratios
from torch import Tensor, nn

from polyak import EMA, Averager

STEPS = 20
"""In one timing."""

WAYS = ("live()", "lerp_ of each tensor", "_foreach_lerp_", "AveragedModel")
BASE = "lerp_ of each tensor"


class Loop:
    """A student, its teacher, and what moves that.

    Args:
        student: Any model of a batch.
        batch: Its input.
        way: One of `WAYS`.
    """

    def __init__(self, student: nn.Module, batch: Tensor, way: str) -> None:
        self.student, self.batch = student, batch
        self.optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)
        self.teacher, self.update = teacher(student, way)

    def step(self) -> None:
        """One step of training, the update included."""
        with torch.no_grad():
            target = self.teacher(self.batch)
        loss = (self.student(self.batch) - target).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update()

    def steps(self) -> None:
        """Enough for a clock."""
        for _ in range(STEPS):
            self.step()

    def updates(self) -> None:
        """The teacher's alone."""
        for _ in range(STEPS):
            self.update()


def teacher(student: nn.Module, way: str) -> tuple[nn.Module, Callable[[], object]]:
    """A teacher and its update, with decay 0.99 of parameters and buffers."""
    if way == "live()":
        averager = Averager(student, EMA(0.99, warmup=None))
        return averager.live(), averager.update
    if way == "AveragedModel":
        function = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
        model = torch.optim.swa_utils.AveragedModel(
            student, multi_avg_fn=function, use_buffers=True
        )
        return model.eval(), lambda: model.update_parameters(student)
    second = copy.deepcopy(student).eval().requires_grad_(False)
    own = [x for x in (*second.parameters(), *second.buffers()) if x.is_floating_point()]
    here = [x for x in (*student.parameters(), *student.buffers()) if x.is_floating_point()]

    @torch.no_grad()
    def one_by_one() -> None:
        for m, x in zip(own, here, strict=True):
            m.lerp_(x, 0.01)

    @torch.no_grad()
    def at_once() -> None:
        torch._foreach_lerp_(own, here, 0.01)

    return second, one_by_one if way == BASE else at_once


def mlp() -> tuple[nn.Module, Tensor]:
    """As reinforcement learning has it, 0.07 million weights."""
    widths = (17, 256, 256, 6)
    layers: list[nn.Module] = []
    for one, two in pairwise(widths):
        layers += [nn.Linear(one, two), nn.ReLU()]
    return nn.Sequential(*layers[:-1]), torch.randn(256, 17)


def convolutions() -> tuple[nn.Module, Tensor]:
    """Twelve layers with BatchNorm, 0.4 million weights."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1)]
    for _ in range(11):
        layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.randn(8, 3, 16, 16)


def transformer() -> tuple[nn.Module, Tensor]:
    """Four layers of width 256, 3 million weights."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.randn(4, 64, 256)


def wide() -> tuple[nn.Module, Tensor]:
    """Three layers of 2,048, 13 million weights and little to compute."""
    layers = [nn.Linear(2048, 2048) for _ in range(3)]
    return nn.Sequential(*layers), torch.randn(8, 2048)


SUBJECTS = {"MLP": mlp, "convolutions": convolutions, "transformer": transformer, "wide": wide}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; {arguments.rounds} rounds of {STEPS} steps, 1 thread")
    print(f"{'':14}{'way':22}{'step ms':>9}{'ratio':>7}{'update ms':>11}{'ratio':>7}")
    for name in arguments.only:
        loops = {}
        for way in WAYS:
            torch.manual_seed(0)
            loops[way] = Loop(*SUBJECTS[name](), way)
        whole = interleaved(
            {way: loop.steps for way, loop in loops.items()}, rounds=arguments.rounds
        )
        alone = interleaved(
            {way: loop.updates for way, loop in loops.items()}, rounds=arguments.rounds
        )
        for way in WAYS:
            row = f"{name:14}{way:22}"
            for seconds, digits in ((whole, 2), (alone, 3)):
                milliseconds = median(seconds[way]) * 1000 / STEPS
                _, ratio, _ = ratios(seconds[way], seconds[BASE])
                row += f"{milliseconds:{9 if digits == 2 else 11}.{digits}f}{ratio:7.2f}"
            print(row)


if __name__ == "__main__":
    main()
