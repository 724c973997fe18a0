"""Real cooldowns against the averages that stand for them: how far to trust `Annealed`.

python docs/results/2026-11-30-annealed/cooldowns.py              # writes cooldowns.csv
python docs/results/2026-11-30-annealed/cooldowns.py --table      # prints the page's tables from it
python docs/results/2026-11-30-annealed/cooldowns.py --figure     # draws cooldowns.svg from it

Two networks, each at two constant learning rates: a ResNet-8 on scikit-learn's digits
(SGD, noise on the training images) and a transformer of two layers on the bytes of the standard
library (AdamW). From each of three moments the rate falls to 0 in three shapes over three lengths,
on the same batches as the run at the constant rate, whose weights are averaged with the shares of
that shape. Losses are on data that is in no training batch; intervals are over its items, paired.
Cooldowns that are in cooldowns.csv are not run again; it takes 15 minutes from nothing.

The rule of `Annealed`, up to a fifth of all steps, was read off the linear and 1 - sqrt cooldowns
of seed 0. Seed 1 draws everything anew: initial weights, batches, noise, and what is held out.
Before it was run it was written here that the rule holds if, with all three shapes, up to a fifth
the average is nowhere worse than the decay by more than 0.01 nats, and shown to be worse (an
interval above 0) in at most a quarter of the cooldowns; and shown to be in more than half of those
beyond.
"""

import argparse
import copy
import csv
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import cos, pi, sqrt
from pathlib import Path

import figure
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import polyak
from polyak.averaging.kinds.annealed import TRUSTED
from polyak.models.resnet import resnet8

HERE = Path(__file__).parent
FILE = HERE / "cooldowns.csv"
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1.0 - x,
    "1-sqrt": lambda x: 1.0 - sqrt(x),
    "cosine": lambda x: (1.0 + cos(pi * x)) / 2.0,
}
MOMENTS, LENGTHS = (300, 600, 1200), (40, 120, 360)
RATES = {"digits": (0.05, 0.2), "bytes": (1e-3, 3e-3)}
SEEDS = (0, 1)
CONTEXT = 48


@dataclass
class Task:
    """A network with its data."""

    model: nn.Module
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    losses: Callable[[nn.Module], Tensor]
    """Of each held-out item."""
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer]
    seed: int
    statistics: list[Tensor]
    """Batches from which BatchNorm's are computed; none without BatchNorm."""


def digits(seed: int) -> Task:
    """ResNet-8 on 1,000 digits, with noise on them; the other 797 are held out."""
    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(7 + seed))
    x = (torch.tensor(raw.images, dtype=torch.float32)[:, None] / 8.0 - 1.0)[order]
    y = torch.tensor(raw.target)[order]
    model = resnet8(classes=10, channels=1)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(1_000, (32,), generator=generator)
        noise = torch.randn(32, 1, 8, 8, generator=generator)
        return x[chosen] + 0.7 * noise, y[chosen]

    def losses(network: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(network(x[1_000:]), y[1_000:], reduction="none")

    def optimizer(network: nn.Module, rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)

    fixed = torch.Generator().manual_seed(11 + seed)
    statistics = [batch(fixed)[0] for _ in range(16)]
    return Task(model, batch, losses, optimizer, seed, statistics)


class NextByte(nn.Module):
    """A causal transformer of two layers."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)
        self.register_buffer(
            "mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False
        )

    def forward(self, text: Tensor) -> Tensor:
        x = self.bytes(text) + self.places.weight
        return self.head(self.norm(self.layers(x, mask=self.mask, is_causal=True)))


def bytes_of_library(seed: int) -> Task:
    """The transformer on modules of the standard library; every tenth is held out."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    parts = [torch.frombuffer(bytearray(f.read_bytes()), dtype=torch.uint8) for f in files]
    train = torch.cat([p for i, p in enumerate(parts) if i % 10 != seed]).long()
    held = torch.cat(parts[seed::10]).long()
    fixed = torch.Generator().manual_seed(11 + seed)
    starts = torch.randint(len(held) - CONTEXT - 1, (256,), generator=fixed)
    test = torch.stack([held[s : s + CONTEXT + 1] for s in starts])

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(train) - CONTEXT - 1, (8,), generator=generator)
        rows = torch.stack([train[s : s + CONTEXT + 1] for s in starts])
        return rows[:, :-1], rows[:, 1:]

    def losses(network: nn.Module) -> Tensor:
        logits = network(test[:, :-1]).transpose(1, 2)
        return nn.functional.cross_entropy(logits, test[:, 1:], reduction="none").mean(dim=1)

    def optimizer(network: nn.Module, rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.1)

    return Task(NextByte(), batch, losses, optimizer, seed, [])


TASKS = {"digits": digits, "bytes": bytes_of_library}


class Window:
    """The averages of one window of the run at the constant rate."""

    def __init__(self, begin: int, length: int, size: int) -> None:
        self.begin, self.length = begin, length
        names = (*SHAPES, "older", "newer")
        self.means = {name: torch.zeros(size, dtype=torch.float64) for name in names}
        self.squares = 0.0

    def take(self, step: int, x: Tensor) -> None:
        """Take in the weights after a step, if they are of this window."""
        k, length = step - self.begin, self.length
        if not 1 <= k <= length:
            return
        shares = {n: w((k - 1) / length) - w(k / length) for n, w in SHAPES.items()}
        shares["older" if 2 * k <= length else "newer"] = 2.0 / length
        for name, share in shares.items():
            self.means[name].add_(x, alpha=share)
        self.squares += float(x.square().sum()) / length

    def straightness(self) -> float:
        """‖newer half − older half‖² over the mean ‖x − mean‖²: 3 of a line, near 0 of noise."""
        apart = (self.means["newer"] - self.means["older"]).square().sum()
        return float(apart) / (self.squares - float(self.means["linear"].square().sum()))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double()


@torch.no_grad()
def held_out(task: Task, model: nn.Module, weights: Tensor | None = None) -> Tensor:
    """Losses of a model, or of one with other parameters; BatchNorm statistics are its own."""
    model = copy.deepcopy(model)
    if weights is not None:
        nn.utils.vector_to_parameters(weights.float(), model.parameters())
    if task.statistics:
        polyak.refresh_batchnorm(model, task.statistics)
    return task.losses(model.eval())


def step(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    x, y = task.batch(torch.Generator().manual_seed(1_000_000 * task.seed + number))
    logits = model(x)
    loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def cooled(task: Task, state: tuple, rate: float, begin: int, length: int, shape: str) -> Tensor:
    """Held-out losses after a real cooldown."""
    model = copy.deepcopy(state[0])
    optimizer = task.optimizer(model, rate)
    optimizer.load_state_dict(copy.deepcopy(state[1]))
    for k in range(1, length + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * SHAPES[shape]((k - 1) / length)
        step(task, model, optimizer, begin + k)
    return held_out(task, model)


def cells(net: str, rate: float, seed: int, done: set[tuple]) -> Iterator[dict[str, object]]:
    """All cooldowns of one run but those that are done."""
    torch.manual_seed(seed)
    task = TASKS[net](seed)
    model, states, ends = task.model, {}, {}
    optimizer = task.optimizer(model, rate)
    size = flat(model).numel()
    windows = [Window(b, d, size) for b in MOMENTS for d in LENGTHS]
    for number in range(1, max(MOMENTS) + max(LENGTHS) + 1):
        step(task, model, optimizer, number)
        x = flat(model)
        for window in windows:
            window.take(number, x)
            if number == window.begin + window.length:
                ends[window.begin, window.length] = held_out(task, model)
        if number in MOMENTS:
            states[number] = (copy.deepcopy(model), copy.deepcopy(optimizer.state_dict()))
    for window in windows:
        begin, length = window.begin, window.length
        raw = ends[begin, length]
        newer = held_out(task, model, window.means["newer"])
        plain = held_out(task, model, window.means["linear"])
        for shape in SHAPES:
            if (begin, length, shape) in done:
                continue
            real = cooled(task, states[begin], rate, begin, length, shape)
            made = held_out(task, model, window.means[shape])
            yield {
                "net": net, "rate": rate, "seed": seed, "begin": begin, "length": length,
                "shape": shape, **compared(raw, made, real),
                "plain": float(plain.mean()), "newer": float(newer.mean()),
                "straightness": window.straightness(),
            }  # fmt: skip


def compared(raw: Tensor, made: Tensor, real: Tensor) -> dict[str, float]:
    """Mean losses, the share of the gap raw − real that the average closes, and 95 % intervals."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(raw), (2_000, len(raw)), generator=generator)
    rows = torch.stack([raw, made, real]).double()
    drawn = rows[:, chosen].mean(dim=2)
    shares = (drawn[0] - drawn[1]) / (drawn[0] - drawn[2])
    apart = drawn[1] - drawn[2]
    means = rows.mean(dim=1).tolist()
    return {
        **dict(zip(("raw", "emulated", "real"), means, strict=True)),
        "closed": (means[0] - means[1]) / (means[0] - means[2]),
        "closed_low": float(shares.quantile(0.025)),
        "closed_high": float(shares.quantile(0.975)),
        "apart_low": float(apart.quantile(0.025)),
        "apart_high": float(apart.quantile(0.975)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--figure", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        table(read())
    elif asked.figure:
        figure.draw(HERE / "cooldowns.svg", read(), TRUSTED)
    else:
        torch.set_num_threads(1)
        measure()


def measure() -> None:
    """All cooldowns that are not in the file, the held-back seed first, networks in turn."""
    began, rows = time.process_time(), read()
    for seed, k, net in product(reversed(SEEDS), range(2), RATES):
        for rate in RATES[net][k : k + 1]:
            run = (net, rate, seed)
            mine = [r for r in rows if (r["net"], r["rate"], r["seed"]) == run]
            done = {(r["begin"], r["length"], r["shape"]) for r in mine}
            if len(done) < len(SHAPES) * len(MOMENTS) * len(LENGTHS):
                rows += cells(*run, done)
                write(rows)
                print(*run, f"{time.process_time() - began:.0f} s", flush=True)


def read() -> list[dict]:
    if not FILE.exists():
        return []
    with FILE.open(encoding="utf-8") as file:
        return [
            {k: x if k in ("net", "shape") else float(x) for k, x in row.items()}
            for row in csv.DictReader(file)
        ]


def write(rows: list[dict]) -> None:
    shapes, nets = list(SHAPES), list(RATES)
    rows.sort(key=lambda r: (r["seed"], nets.index(r["net"]), r["rate"], r["begin"], r["length"],
                             shapes.index(r["shape"])))  # fmt: skip
    with FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _short(x) for k, x in row.items()} for row in rows)


def table(rows: list[dict]) -> None:
    """The tables of the page: what a rule on the share of the run would say, and each cooldown."""
    print("| seed, shape | share of the run | cooldowns | average better | worse | worst | mean |")
    print("|---|---|---|---|---|---|---|")
    told = [
        ("seed 0, linear and 1-sqrt", 0, ("linear", "1-sqrt")),
        ("seed 0, cosine", 0, ("cosine",)),
        ("**seed 1**, all three", 1, tuple(SHAPES)),
        *((f"seed 1, {shape}", 1, (shape,)) for shape in SHAPES),
    ]
    for name, seed, shapes in told:
        mine = [r for r in rows if r["seed"] == seed and r["shape"] in shapes]
        for low, high in ((0.0, 0.1), (0.1, TRUSTED), (0.0, TRUSTED), (TRUSTED, 1.0)):
            found = [r for r in mine if low < _share((r["begin"], r["length"])) <= high]
            print(f"| {name} | {low:.0%} to {high:.0%} | {_counts(found)} |")
    for seed in SEEDS:
        flat = [r for r in rows if r["shape"] == "1-sqrt" and r["seed"] == seed]
        plain = sum(r["plain"] < r["emulated"] for r in flat)
        print(
            f"\nseed {seed}: plain mean better than the emulated 1-sqrt in {plain} of {len(flat)}"
        )
        mine = [r for r in rows if r["seed"] == seed]
        up = sum(r["real"] >= r["raw"] for r in mine)
        print(f"seed {seed}: real decay no better than none at its end in {up} of {len(mine)}")
    columns = [(seed, shape) for seed in SEEDS for shape in SHAPES]
    heads = " | ".join(f"{shape}, seed {seed}" for seed, shape in columns)
    print(f"\n| steps | share of the run | network | rate | {heads} |")
    print("|---|---|---|---|" + "---|" * len(columns))
    lengths = sorted({(row["begin"], row["length"]) for row in rows}, key=_share)
    for (begin, length), net in product(lengths, RATES):
        for rate in RATES[net]:
            key = (begin, length, net, rate)
            mine = {
                (r["seed"], r["shape"]): _cell(r)
                for r in rows
                if (r["begin"], r["length"], r["net"], r["rate"]) == key
            }
            cells = " | ".join(mine.get(column, "–") for column in columns)
            where = f"{begin:g} + {length:g} | {_share((begin, length)):.0%}"
            print(f"| {where} | {net} | {rate:g} | {cells} |")


def _counts(rows: list[dict]) -> str:
    """How many, those that the average is better and worse in, its worst and its mean."""
    apart = [r["emulated"] - r["real"] for r in rows] or [0.0]
    better = sum(r["apart_high"] < 0 for r in rows)
    worse = sum(r["apart_low"] > 0 for r in rows)
    mean = sum(apart) / len(apart)
    return f"{len(rows)} | {better} | {worse} | {max(apart):+.4f} | {mean:+.4f}"


def _share(moment: tuple[float, float]) -> float:
    return moment[1] / sum(moment)


def _cell(row: dict) -> str:
    """Average − decay, in bold where the interval says that the average is worse."""
    apart = f"{row['emulated'] - row['real']:+.4f}"
    return f"**{apart}**" if row["apart_low"] > 0 else apart


def _short(x: object) -> object:
    return f"{x:.6g}" if isinstance(x, float | int) else x


if __name__ == "__main__":
    main()
