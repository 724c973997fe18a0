"""Accelerate: gradient accumulation, and a state that holds the average too.

Four batches make a step; the averager counts steps, not batches. `save_state` and `load_state` take
the average along.

    pip install accelerate
    python examples/with_accelerate.py
"""

import tempfile

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import polyak
from polyak.integrations.accelerate import register

EPOCHS, ACCUMULATED = 6, 4


def main() -> dict[str, float]:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    wrong = torch.nonzero(torch.rand(1280) < 0.4)  # labels in what is trained on
    y[wrong] = torch.randint(10, wrong.shape)
    data = TensorDataset(x[:1280], y[:1280])

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = DataLoader(data, batch_size=8, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    averager = polyak.Averager(model, 0.98)  # after prepare
    register(accelerator, averager, optimizer)

    batches = 0
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(EPOCHS):
            if epoch == EPOCHS // 2:  # as after a restart
                accelerator.save_state(folder)
                accelerator.load_state(folder)
            for images, labels in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(nn.functional.cross_entropy(model(images), labels))
                    optimizer.step()
                    optimizer.zero_grad()
                batches += 1

    found = {"batches": batches, "steps": averager.steps}
    with torch.no_grad():
        found["weights"] = (model(x[1280:]).argmax(1) == y[1280:]).float().mean().item()
        with averager.applied():
            found["average"] = (model(x[1280:]).argmax(1) == y[1280:]).float().mean().item()
    print(f"{batches} batches, {averager.steps} steps")
    for name in ("weights", "average"):
        print(f"{name:8} {100 * found[name]:.1f} % of the test images right")
    return found


if __name__ == "__main__":
    main()
