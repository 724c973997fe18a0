"""One average in a plain training loop, on handwritten digits of which 40 % have wrong labels.

The learning rate is constant, so the weights never come to rest; their average lies amid them and
is right more often. The same network is tested twice, with its own weights and with the average.

    python examples/plain_pytorch.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import polyak

WRONG, STEPS, BATCH = 0.4, 300, 32


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 images of 8 × 8, shuffled: (n, 64) from 0 to 1, and their classes."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    return torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def main() -> dict[str, float]:
    torch.manual_seed(0)
    x, y = digits()
    train_x, train_y, test_x, test_y = x[:1200], y[:1200].clone(), x[1200:], y[1200:]
    wrong = torch.rand(len(train_y)) < WRONG
    train_y[wrong] = (train_y[wrong] + torch.randint(1, 10, (int(wrong.sum()),))) % 10

    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    averager = polyak.Averager(model, 0.98)  # mostly the last fifty steps
    averager.attach(optimizer)

    for _ in range(STEPS):
        batch = torch.randint(len(train_y), (BATCH,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train_x[batch]), train_y[batch]).backward()
        optimizer.step()

    # BatchNorm's statistics were those of the weights on the way; these are the average's own.
    averager.refresh_batchnorm(train_x.split(200))
    model.eval()
    found = {"weights": accuracy(model, test_x, test_y)}
    with averager.applied():
        found["average"] = accuracy(model, test_x, test_y)
    for name, value in found.items():
        print(f"{name:8} {100 * value:.1f} % of the test images right")
    return found


if __name__ == "__main__":
    main()
