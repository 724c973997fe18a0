"""The small runs that boards are made of: digits, CIFAR-10 and bytes, with all their weights."""

import io
import os
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import polyak
from polyak import EMA
from polyak.data.formats.cifar_n import read_cifar_n

DECAYS = (0.8, 0.95, 0.985, 0.996)
FILES, GIVEN, CONTEXT = 25, 500, 8


@dataclass(frozen=True)
class Run:
    """One of a set."""

    net: str
    seed: int
    rate: float
    steps: int
    wrong: float = 0.0
    """Share of training labels that are drawn anew; of CIFAR-10 people's worst ones, 40 %."""
    falls: bool = False
    """Whether the rate falls to a tenth, linearly."""


FIRST = [
    *(Run("mlp", k, r, s) for k, (r, s) in enumerate([(0.1, 300), (0.3, 300), (0.3, 800)])),
    *(Run("mlp", k, r, s, 0.3) for k, (r, s) in enumerate([(0.1, 600), (0.3, 600), (0.3, 1000)])),
    *(Run("mlp", k, 0.3, s, w, True) for k, (s, w) in enumerate([(600, 0.0), (800, 0.3)])),
    *(Run("conv", k, r, s) for k, (r, s) in enumerate([(0.1, 300), (0.2, 300), (0.2, 800)])),
    *(Run("conv", k, r, s, 0.3) for k, (r, s) in enumerate([(0.1, 600), (0.2, 600), (0.2, 800)])),
    *(Run("conv", k, 0.2, s, w, True) for k, (s, w) in enumerate([(600, 0.0), (800, 0.3)])),
    *(Run("bytes", k, r, s) for k, (r, s) in enumerate([(0.5, 600), (1.0, 600), (1.0, 1000)])),
    Run("bytes", 3, 1.0, 800, falls=True),
    *(Run("cifar", k, r, s) for k, (r, s) in enumerate([(0.1, 800), (0.2, 1200)])),
    Run("cifar", 0, 0.2, 1200, 0.4),
    Run("cifar", 2, 0.2, 1000, falls=True),
]
"""Those on which the search was worked out."""

HELD_BACK = [replace(run, seed=run.seed + 10) for run in FIRST]
"""The same with other seeds: initial weights, batches, which images, wrong labels, what is held
out. By these it is judged."""


@cache
def digits() -> tuple[Tensor, Tensor]:
    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(7))
    x = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    return x[order], torch.tensor(raw.target)[order]


@cache
def texts() -> tuple[Tensor, Tensor]:
    """Bytes of the standard library's modules; every tenth is held out."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    parts = [torch.frombuffer(bytearray(f.read_bytes()), dtype=torch.uint8) for f in files]
    train = torch.cat([p for i, p in enumerate(parts) if i % 10])
    return train.long(), torch.cat(parts[::10]).long()


@cache
def cifar(part: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first images, halved to 16 x 16, their labels, and people's worst of the training set."""
    home = Path(os.environ["POLYAK_TEST_DATA"])
    [file] = (home / "cifar10-jpeg").glob(f"{part}-*.parquet")
    table = parquet.read_table(file)
    labels = torch.tensor(table["label"].to_pylist())
    human = home / "cifar-n" / "CIFAR-10_human.pt"
    worst = read_cifar_n(human, "worse_label", labels) if part == "train" else labels
    raw = table["img"].slice(0, count).combine_chunks().field("bytes").to_pylist()
    flat = [bytearray(Image.open(io.BytesIO(one)).convert("RGB").tobytes()) for one in raw]
    x = torch.stack([torch.frombuffer(b, dtype=torch.uint8).reshape(32, 32, 3) for b in flat])
    halved = nn.functional.avg_pool2d(x.permute(0, 3, 1, 2).float() / 64.0 - 2.0, 2)
    return halved, labels[:count], worst[:count].long()


def windows(text: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(text) - CONTEXT, (count,), generator=generator)
    rows = text[starts[:, None] + torch.arange(CONTEXT + 1)]
    return rows[:, :-1], rows[:, -1]


def network(name: str) -> nn.Module:
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    if name == "conv":
        first, second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        end = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 10))
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), end)
    if name == "cifar":
        sizes = [(3, 12), (12, 24), (24, 32)]
        layers = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in sizes]
        inside = [part for layer in layers for part in (layer, nn.ReLU())]
        return nn.Sequential(*inside, nn.Flatten(), nn.Linear(128, 10))
    inside = nn.Linear(CONTEXT * 12, 48)
    return nn.Sequential(nn.Embedding(256, 12), nn.Flatten(), inside, nn.ReLU(), nn.Linear(48, 256))


def data(run: Run) -> tuple[Callable[[torch.Generator], tuple[Tensor, Tensor]], Tensor, Tensor]:
    """What draws a batch of 32, and held-out items in random order."""
    fixed = torch.Generator().manual_seed(run.seed)
    if run.net == "bytes":
        train, held = texts()
        return lambda generator: windows(train, 32, generator), *windows(held, 3_000, fixed)
    x, labels, held_x, held_y = images(run, fixed)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(labels), (32,), generator=generator)
        return x[chosen], labels[chosen]

    return batch, held_x, held_y


def images(run: Run, fixed: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """To train on, with labels that may be wrong, and held out."""
    if run.net == "cifar":
        x, y, worst = cifar("train", 6_000)
        held_x, held_y, _ = cifar("test", 3_000)
        train = torch.randperm(len(y), generator=fixed)[:3_000]
        held = torch.randperm(len(held_y), generator=fixed)[:1_500]
        return x[train], (worst if run.wrong else y)[train], held_x[held], held_y[held]
    x, y = digits()
    order = torch.randperm(len(y), generator=fixed)
    train, held = order[:600], order[600:]
    labels = y[train].clone()
    redrawn = torch.rand(len(labels), generator=fixed) < run.wrong
    labels[redrawn] = torch.randint(10, (int(redrawn.sum()),), generator=fixed)
    return x[train], labels, x[held], y[held]


def train(run: Run, folder: Path | None) -> tuple[nn.Module, list[Path], Tensor]:
    """The files, if a folder is given, and the weights before each update and after the last."""
    torch.manual_seed(run.seed)
    model, (batch, _, _) = network(run.net), data(run)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.rate)
    averager = polyak.Averager(model, [EMA(d, None) for d in DECAYS])
    generator = torch.Generator().manual_seed(100 + run.seed)
    files, weights = [], [nn.utils.parameters_to_vector(model.parameters()).detach().clone()]
    for step in range(1, run.steps + 1):
        if run.falls:
            optimizer.param_groups[0]["lr"] = run.rate * (1.0 - 0.9 * step / run.steps)
        x, y = batch(generator)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        averager.step()
        weights.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        if folder and step % (run.steps // FILES) == 0:
            files.append(folder / f"{step}.safetensors")
            polyak.save(averager, files[-1])
    return model, files, torch.stack(weights)
