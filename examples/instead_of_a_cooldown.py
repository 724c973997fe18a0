"""See what a decay of the learning rate would give, without one, from a script's own checkpoints.

A run at a constant rate leaves plain state dicts now and then, at uneven steps. Two averages are
made of them when it is over: one that stands for a linear decay over the last steps, and one that
is not behind the weights. For comparison the decay is then run as well, on the same batches.

    python examples/instead_of_a_cooldown.py
"""

import copy
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import polyak

STEPS, OVER, RATE, WRONG = 1_000, 200, 0.5, 0.4


def main() -> dict[str, float]:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    held_x, held_y = x[1200:], y[1200:].clone()
    wrong = torch.rand(len(y)) < WRONG  # labels that are wrong
    y[wrong] = (y[wrong] + torch.randint(1, 10, (int(wrong.sum()),))) % 10
    batches = torch.randint(1200, (STEPS, 32))

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def train(network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        batch = batches[step - 1]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()

    def loss(weights: dict[str, torch.Tensor]) -> float:
        network = copy.deepcopy(model)
        network.load_state_dict(weights)
        with torch.no_grad():
            return nn.functional.cross_entropy(network(held_x), held_y).item()

    ahead = polyak.Combination.lag_free(noise=200)
    averager = polyak.Averager(model, ahead.parts_to_keep)  # two EMAs
    averager.attach(optimizer)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for step in range(1, STEPS + 1):
            train(model, optimizer, step)
            if step == STEPS - OVER:
                begun = copy.deepcopy(model)
            if step > STEPS - OVER - 20 and (step % 13 == 0 or step == STEPS):
                files[step] = Path(folder, f"checkpoint-{step}.pt")
                torch.save(model.state_dict(), files[step])
        annealed = polyak.Annealed("linear", over=OVER)
        found = polyak.synthesize(list(files.values()), annealed, at=list(files))
        [made] = found.values()

    # The decay itself, which nobody would need to run.
    cooled = torch.optim.SGD(begun.parameters(), lr=RATE)
    for k in range(OVER):
        cooled.param_groups[0]["lr"] = RATE * (1 - k / OVER)
        train(begun, cooled, STEPS - OVER + k + 1)

    losses = {
        "weights": loss(model.state_dict()),
        "decayed": loss(begun.state_dict()),
        "annealed": loss(made),
        "lag-free": loss(averager.combine(ahead)),
    }
    for name, value in losses.items():
        print(f"{name:<10} held-out loss {value:.3f}")
    print(f"made of {len(files)} checkpoints: {found.manifest['synthesis']['error']:.1%} off")
    return losses


if __name__ == "__main__":
    main()
