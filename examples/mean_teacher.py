"""Mean Teacher: six labelled points of two classes, and what the network's average says of others.

The student is a network in training, the teacher its average (Tarvainen & Valpola 2017). Both see
the points of a batch, each with noise of its own; beside the loss on labelled points, their
disagreement on all points is a loss. So the border moves to where there are no points. The same is
trained without a teacher, for comparison.

    python examples/mean_teacher.py
"""

import math

import torch
from torch import Tensor, nn

import polyak

LABELLED, STEPS, NOISE = 6, 600, 0.15


def moons(n: int) -> tuple[Tensor, Tensor]:
    """Points (n, 2) on two crescents that reach into each other, and which one each is on."""
    which = torch.arange(n) % 2
    angle = math.pi * torch.rand(n)
    side = 1.0 - 2.0 * which
    x = torch.stack([side * angle.cos() + which, side * angle.sin() + 0.5 * which], 1)
    return x + 0.08 * torch.randn(n, 2), which


def train(x: Tensor, y: Tensor, *, consistency: float) -> nn.Module:
    """The teacher at the end of training.

    Args:
        x: Points (n, 2); the first `LABELLED` have labels.
        y: Their classes (n,).
        consistency: Weight of the disagreement in the loss.
    """
    torch.manual_seed(1)
    student = nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    averager = polyak.Averager(student, polyak.EMA(0.97, warmup=None))
    averager.attach(optimizer)
    teacher = averager.live()  # a module that is the average, at any time
    for step in range(STEPS):
        batch = x[torch.randint(len(x), (128,))]
        with torch.no_grad():
            said = teacher(batch + NOISE * torch.randn_like(batch)).softmax(1)
        loss = nn.functional.cross_entropy(student(x[:LABELLED]), y[:LABELLED])
        predicted = student(batch + NOISE * torch.randn_like(batch)).softmax(1)
        disagreement = (predicted - said).square().sum(1).mean()
        rising = min(1.0, 2 * step / STEPS)  # a teacher that knows nothing yet is not followed
        optimizer.zero_grad()
        (loss + consistency * rising * disagreement).backward()
        optimizer.step()
    return teacher


def main() -> dict[str, float]:
    torch.manual_seed(0)
    x, y = moons(500)
    test_x, test_y = moons(1_000)
    found = {}
    for name, weight in (("labels alone", 0.0), ("with a teacher", 10.0)):
        model = train(x, y, consistency=weight)
        found[name] = (model(test_x).argmax(1) == test_y).float().mean().item()
        print(f"{name:15} {100 * found[name]:.1f} % of the test points right")
    return found


if __name__ == "__main__":
    main()
