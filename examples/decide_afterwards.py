"""Decide on the decay when the run is over, from files of two averages.

Two averages of different length are saved every 20 steps. Afterwards any other decay is put
together from these files, evaluated on held-out images, and the best is taken. One decay was also
kept in the run, to see how far the one put together is off.

    python examples/decide_afterwards.py
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import polyak

STEPS, SAVE_EVERY, WRONG = 400, 20, 0.4
DECAYS = (0.95, 0.98, 0.99)


def main() -> dict[str, float]:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    held_x, held_y, train_loader = x[1200:], y[1200:].clone(), x[:1200].split(200)
    wrong = torch.rand(len(y)) < WRONG  # labels that are wrong
    y[wrong] = (y[wrong] + torch.randint(1, 10, (int(wrong.sum()),))) % 10

    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    saved = polyak.Averager(model, [polyak.EMA(0.9, None), polyak.EMA(0.98, None)])
    kept = polyak.Averager(model, polyak.EMA(0.95, None))  # for the comparison at the end only
    saved.attach(optimizer)
    kept.attach(optimizer)

    with tempfile.TemporaryDirectory() as folder:
        files = []
        for step in range(1, STEPS + 1):
            batch = torch.randint(1200, (32,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            if step % SAVE_EVERY == 0:
                files.append(Path(folder, f"{step}.safetensors"))
                polyak.save(saved, files[-1])

        # A new process could begin here: it needs the files and the network alone.
        losses, made, expected = {}, {}, {}
        for decay in DECAYS:
            found = polyak.synthesize(files, polyak.EMA(decay, None), steps=STEPS)
            expected[decay] = found.manifest["synthesis"]["error"]
            [made[decay]] = found.values()
            model.load_state_dict(made[decay])
            polyak.refresh_batchnorm(model, train_loader)
            model.eval()
            with torch.no_grad():
                losses[decay] = nn.functional.cross_entropy(model(held_x), held_y).item()
            print(f"EMA {decay:<6} held-out loss {losses[decay]:.4f}")

    best = min(losses, key=losses.__getitem__)
    print(f"best: EMA {best}")
    own = kept.tensors()["0.weight"]
    off = (made[0.95]["0.weight"] - own).norm() / own.norm()
    print(f"EMA 0.95 against the one that was kept: {off:.1e} of its length off")
    return {"best": best, "off": off.item(), "expected": expected[0.95]}


if __name__ == "__main__":
    main()
