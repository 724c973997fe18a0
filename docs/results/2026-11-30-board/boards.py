"""How much a board of 40 scores leaves lying, and whether the score it prints is fair.

python docs/results/2026-11-30-board/boards.py              # writes boards.csv, after all runs
python docs/results/2026-11-30-board/boards.py --table      # prints the page's tables from it

20 runs of three small networks. Each keeps four EMAs in 25 files, of which `polyak.board` chooses,
and all its weights, of which 504 averages are summed as written. Held-out items are 500 that are
given to the board (250 choose, 250 score) and others that it never sees; 200 more boards of
each run of seed 0, of random items, show the bias.
"""

import argparse
import csv
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import polyak
from polyak import EMA
from polyak.averaging.boards import board as boarding
from polyak.averaging.boards.search import FAMILIES
from polyak.averaging.saved_weights import SavedWeights

boarding.contents = cache(boarding.contents)  # 4,000 boards ask for the same few thousand
HERE = Path(__file__).parent
DECAYS = (0.8, 0.95, 0.985, 0.996)
FILES, GIVEN, SPLITS, CONTEXT = 25, 500, 200, 8
WIDTHS = 18
BIAS = ("bias", "bias_error", "bias_of_choosing_half", "score_error")


@dataclass(frozen=True)
class Run:
    """One of the 20."""

    net: str
    seed: int
    rate: float
    steps: int
    wrong: float = 0.0
    """Share of training labels that are drawn anew."""
    falls: bool = False
    """Whether the rate falls to a tenth, linearly."""


RUNS = [
    *(Run("mlp", k, r, s) for k, (r, s) in enumerate([(0.1, 300), (0.3, 300), (0.3, 800)])),
    *(Run("mlp", k, r, s, 0.3) for k, (r, s) in enumerate([(0.1, 600), (0.3, 600), (0.3, 1000)])),
    *(Run("mlp", k, 0.3, s, w, True) for k, (s, w) in enumerate([(600, 0.0), (800, 0.3)])),
    *(Run("conv", k, r, s) for k, (r, s) in enumerate([(0.1, 300), (0.2, 300), (0.2, 800)])),
    *(Run("conv", k, r, s, 0.3) for k, (r, s) in enumerate([(0.1, 600), (0.2, 600), (0.2, 800)])),
    *(Run("conv", k, 0.2, s, w, True) for k, (s, w) in enumerate([(600, 0.0), (800, 0.3)])),
    *(Run("bytes", k, r, s) for k, (r, s) in enumerate([(0.5, 600), (1.0, 600), (1.0, 1000)])),
    Run("bytes", 3, 1.0, 800, falls=True),
]


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
    inside = nn.Linear(CONTEXT * 12, 48)
    return nn.Sequential(nn.Embedding(256, 12), nn.Flatten(), inside, nn.ReLU(), nn.Linear(48, 256))


def data(run: Run) -> tuple[Callable[[torch.Generator], tuple[Tensor, Tensor]], Tensor, Tensor]:
    """What draws a batch of 32, and held-out items in random order."""
    fixed = torch.Generator().manual_seed(run.seed)
    if run.net == "bytes":
        train, held = texts()
        return lambda generator: windows(train, 32, generator), *windows(held, 3_000, fixed)
    x, y = digits()
    order = torch.randperm(len(y), generator=fixed)
    train, held = order[:600], order[600:]
    labels = y[train].clone()
    redrawn = torch.rand(len(labels), generator=fixed) < run.wrong
    labels[redrawn] = torch.randint(10, (int(redrawn.sum()),), generator=fixed)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(labels), (32,), generator=generator)
        return x[train][chosen], labels[chosen]

    return batch, x[held], y[held]


def train(run: Run, folder: Path) -> tuple[nn.Module, list[Path], Tensor]:
    """The files, and the weights before each update and after the last, flat."""
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
        if step % (run.steps // FILES) == 0:
            files.append(folder / f"{step}.safetensors")
            polyak.save(averager, files[-1])
    return model, files, torch.stack(weights)


class Written:
    """Averages as sums of all weights, written out; each is made once."""

    every = 1

    def __init__(self, run: Run, model: nn.Module, weights: Tensor) -> None:
        self.moments = [run.steps * k // FILES for k in range(1, FILES + 1)]
        self.kept = EMA(DECAYS[-1], None)
        self._model, self._weights = model, weights
        self._made: dict[tuple[str, int], SavedWeights] = {}

    def make(self, kind: polyak.Average, steps: int, _error: float) -> tuple[SavedWeights, float]:
        key = (kind.label, steps)
        if key not in self._made:
            shares = torch.tensor(polyak.profile(kind, updates=steps), dtype=torch.float32)
            self._made[key] = SavedWeights(
                {kind.label: self.state(shares @ self._weights[: steps + 1])}, manifest={}
            )
        return self._made[key], 0.0

    def state(self, flat: Tensor) -> dict[str, Tensor]:
        named = list(self._model.named_parameters())
        parts = flat.split([p.numel() for _, p in named])
        return {n: x.reshape(p.shape) for (n, p), x in zip(named, parts, strict=True)}

    def everything(self) -> list[dict[str, Tensor]]:
        """504 averages: four kinds, 18 widths from 3 weights to 0.6 of the run, seven moments."""
        last = self.moments[-1]
        ratio = (0.6 * last / 3.0) ** (1.0 / (WIDTHS - 1))
        moments = [last * k // FILES for k in (25, 23, 21, 17, 13, 9, 5)]
        kinds = [(f, 3.0 * ratio**k, m) for f in FAMILIES for k in range(WIDTHS) for m in moments]
        made = [self.make(FAMILIES[f](n, m, 1), m, 0.0)[0] for f, n, m in kinds]
        return [state for each in made for state in each.values()]


def measure(run: Run, folder: Path) -> dict[str, object]:
    began = time.perf_counter()
    model, files, weights = train(run, folder)
    _, x, y = data(run)
    model.eval()

    @torch.no_grad()
    def losses(state: dict[str, Tensor]) -> Tensor:
        return cross_entropy(functional_call(model, state, (x,)), y, reduction="none").double()

    found = polyak.board(files, lambda state: losses(state)[:GIVEN])
    [winner] = found.weights.values()
    written = Written(run, model, weights)
    all_losses = torch.stack([losses(state) for state in written.everything()])
    choose = torch.randperm(GIVEN, generator=torch.Generator().manual_seed(0))[: GIVEN // 2]
    unseen = all_losses[:, GIVEN:].mean(dim=1)
    chosen = all_losses[:, choose].mean(dim=1)
    last, mine = losses(written.state(weights[-1])), losses(winner)
    row = {
        **{name: getattr(run, name) for name in ("net", "seed", "rate", "steps", "wrong", "falls")},
        "scores": found.scores,
        "average": found.best.average.label,
        "step": found.best.steps,
        "last": float(last[GIVEN:].mean()),
        "board": float(mine[GIVEN:].mean()),
        "exhaustive": float(unseen[chosen.argmin()]),
        "oracle": float(unseen.min()),
        "last_chosen": float(last[choose].mean()),
        "board_chosen": found.best.chosen,
        "exhaustive_chosen": float(chosen.min()),
        **(bias(run, written, losses, len(y)) if run.seed == 0 else dict.fromkeys(BIAS, "")),
    }
    row = {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()}
    print(*row.values(), f"{time.perf_counter() - began:.1f} s", flush=True)
    return row


def bias(
    run: Run, written: Written, losses: Callable[[dict[str, Tensor]], Tensor], items: int
) -> dict[str, float]:
    """Of boards of random items: printed less unseen score, and what the other half would say."""
    known: dict[int, Tensor] = {}
    first = 1000 * (1 + RUNS.index(run))
    off, chosen, spread = [], [], []

    def score(state: dict[str, Tensor]) -> Tensor:
        key = next(iter(state.values())).data_ptr()
        if key not in known:
            known[key] = losses(state)
        return known[key]

    for split in range(SPLITS):
        order = torch.randperm(items, generator=torch.Generator().manual_seed(first + split))
        given, unseen = order[:GIVEN], order[GIVEN:]
        made = boarding.compare(written, lambda state, given=given: score(state)[given])
        [winner] = made.weights.values()
        truth = float(score(winner)[unseen].mean())
        off.append(made.best.scored - truth)
        chosen.append(made.best.chosen - truth)
        spread.append(float(score(winner).std()) / (GIVEN // 2) ** 0.5)
    off_s = torch.tensor(off, dtype=torch.float64)
    found = (off_s.mean(), off_s.std() / SPLITS**0.5, sum(chosen) / SPLITS, sum(spread) / SPLITS)
    return {name: float(x) for name, x in zip(BIAS, found, strict=True)}


def regrets(x: dict[str, float]) -> dict[str, float]:
    """By what share of what averaging gains the board is behind."""
    gain, own = x["last"] - x["oracle"], x["last_chosen"] - x["exhaustive_chosen"]
    return {
        "regret": (x["board"] - x["exhaustive"]) / gain,
        "regret where it chose": (x["board_chosen"] - x["exhaustive_chosen"]) / own,
        "behind the best of 504": (x["board"] - x["oracle"]) / gain,
    }


def print_table(rows: list[dict[str, str]]) -> None:
    """What the page shows."""
    print("| run | last weights | board | chosen of 504 | regret | where it chose | best of 504 |")
    print("|---|---|---|---|---|---|---|")
    told = []
    for row in rows:
        x = {n: float(row[n]) for n in list(row)[8:] if row[n]}
        told.append(regrets(x))
        wrong = f", {float(row['wrong']):.0%} wrong labels" if float(row["wrong"]) else ""
        name = f"{row['net']}, rate {row['rate']}{' falling' if row['falls'] == 'True' else ''}"
        losses = [f"{x[n]:.4f}" for n in ("last", "board", "exhaustive")]
        shares = [f"{share:+.1%}" for share in told[-1].values()]
        print("|", " | ".join([f"{name}, {row['steps']} steps{wrong}", *losses, *shares]), "|")
    for name in told[0]:
        each = sorted(shares[name] for shares in told)
        within = sum(share <= 0.05 for share in each)
        print(f"{name}: at most 5 % in {within}, median {each[len(each) // 2]:+.1%}")
    print("\n| run | bias | of the choosing half | one score's standard error |\n|---|---|---|---|")
    for row in rows:
        if row["bias"]:
            off, error, chosen, one = (float(row[name]) for name in BIAS)
            run = f"{row['net']}, {row['rate']}, {row['steps']} steps, {row['wrong']}"
            print(f"| {run} | {off:+.4f} ± {error:.4f} | {chosen:+.4f} | {one:.4f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    if parser.parse_args().table:
        with (HERE / "boards.csv").open(newline="") as file:
            print_table(list(csv.DictReader(file)))
        return
    torch.set_num_threads(1)
    rows = []
    for run in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(run, Path(folder)))
    with (HERE / "boards.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
