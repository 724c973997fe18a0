"""How much a board of 40 scores leaves lying, and whether the score it prints is fair.

POLYAK_TEST_DATA=path/to/data python docs/results/2026-11-30-board/boards.py    # writes boards.csv
python docs/results/2026-11-30-board/boards.py --bias     # writes bias.csv
python docs/results/2026-11-30-board/boards.py --table    # prints the page's tables from both

24 runs of four small networks, twice: those of the first seeds, on which the search was worked out,
and those of other seeds, which were held back from it. Each run keeps four EMAs in 25 files, of
which `polyak.board` chooses, and all its weights, of which the exhaustive board's averages are
summed as written. Held-out items are 500 that are given to the board (250 choose, 250 score) and
others that it never sees; 200 more boards of some runs, of random items, show the bias. What is in
the files is not run again. POLYAK_TEST_DATA holds cifar10-jpeg/ (parquet, the hub's layout) and
cifar-n/CIFAR-10_human.pt; without it runs of CIFAR-10 are left out.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from exhaustive import Place, Written
from runs import FIRST, GIVEN, HELD_BACK, Run, data, train
from torch import Tensor

import polyak
import polyak.averaging.files.mixtures.synthesize as synthesis
from polyak.averaging.boards import board as boarding

HERE = Path(__file__).parent
SETS = {"held back": HELD_BACK, "first": FIRST}
SPLITS = 200
NEAR = 50
"""So many of the exhaustive board, the best where it chose, are scored on unseen items."""


def measure(run: Run) -> dict[str, object]:
    """The board's winner and the exhaustive board's, where they chose and on unseen items."""
    _, x, y = data(run)
    synthesis.load = cache(synthesis.load)  # each of 40 averages reads all files
    with tempfile.TemporaryDirectory() as folder:
        model, files, weights = train(run, Path(folder))
        written = Written(run, model, weights, x, y)
        found = polyak.board(files, lambda state: written.losses(state)[:GIVEN])
    [winner] = found.weights.values()
    mine, last = written.losses(winner), written.losses(written.state(weights[-1]))
    all_places, made, chosen = written.everything(run, first_half())
    plain = [k for k in chosen.argsort().tolist() if all_places[k].start == 0.0]
    near = sorted({*chosen.argsort()[:NEAR].tolist(), *plain[:NEAR]}, key=lambda k: chosen[k])
    unseen = {k: written.losses(written.state(made[k]), slice(GIVEN, None)) for k in near}
    best, best_plain = near[0], plain[0]
    apart = unseen[best] - unseen[best_plain]
    return {
        "scores": found.scores,
        "average": found.best.average.label,
        "step": found.best.steps,
        "last": float(last[GIVEN:].mean()),
        "board": float(mine[GIVEN:].mean()),
        "exhaustive": float(unseen[best].mean()),
        "oracle": min(float(x.mean()) for x in unseen.values()),
        "last_chosen": float(last[first_half()].mean()),
        "board_chosen": found.best.chosen,
        "exhaustive_chosen": float(chosen[best]),
        "exhaustive_average": told(all_places[best]),
        "plain": float(unseen[best_plain].mean()),
        "plain_chosen": float(chosen[best_plain]),
        "plain_average": told(all_places[best_plain]),
        "start_interval": float(1.96 * apart.std() / len(apart) ** 0.5),
    }


def first_half() -> Tensor:
    """The given items that choose, as `polyak.board` draws them."""
    return torch.randperm(GIVEN, generator=torch.Generator().manual_seed(0))[: GIVEN // 2]


def told(place: Place) -> str:
    start = f" from {place.start:g}" if place.start else ""
    return f"{place.family} of {place.width:.4g}{start} at {place.moment}"


def bias(run: Run) -> dict[str, object]:
    """Of boards of random items: printed less unseen score, and what the other half would say."""
    boarding.contents = cache(boarding.contents)  # 200 boards ask for the same few hundred
    model, _, weights = train(run, None)
    _, x, y = data(run)
    written = Written(run, model, weights, x, y)
    off, chosen, spread = [], [], []
    for split in range(SPLITS):
        # Of each run its own: runs on digits with one seed have the same items held out.
        generator = torch.Generator().manual_seed(1_000 * (1 + HELD_BACK.index(run)) + split)
        order = torch.randperm(len(y), generator=generator)
        made = boarding.compare(written, written.score(order[:GIVEN]))
        [winner] = made.weights.values()
        unseen = written.score(order[GIVEN:])(winner)
        off.append(made.best.scored - float(unseen.mean()))
        chosen.append(made.best.chosen - float(unseen.mean()))
        spread.append(float(unseen.std()) / (GIVEN // 2) ** 0.5)
    off_s = torch.tensor(off, dtype=torch.float64)
    return {
        "bias": float(off_s.mean()),
        "bias_error": float(off_s.std()) / SPLITS**0.5,
        "bias_of_choosing_half": sum(chosen) / SPLITS,
        "score_error": sum(spread) / SPLITS,
    }


def fill(
    file: Path, what: Callable[[Run], dict[str, object]], wanted: dict[str, list[Run]]
) -> None:
    """Measure the runs that are not in the file, and write each as it is done."""
    rows = read(file)
    for name, runs in wanted.items():
        for run in reversed(runs):
            about = {"set": name, **asdict(run)}
            if key(about) in {key(row) for row in rows} or not had(run):
                continue
            began = time.process_time()
            found = {n: f"{v:.6g}" if isinstance(v, float) else v for n, v in what(run).items()}
            rows.append({**about, **found})
            print(*rows[-1].values(), f"{time.process_time() - began:.1f} s", flush=True)
            order = [key({"set": s, **asdict(run)}) for s, runs in SETS.items() for run in runs]
            rows.sort(key=lambda row: order.index(key(row)))
            with file.open("w", newline="", encoding="utf-8") as out:
                writer = csv.DictWriter(out, rows[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


def key(row: dict) -> tuple[str, ...]:
    """What names a run."""
    return tuple(str(row[name]) for name in ("set", *asdict(FIRST[0])))


def had(run: Run) -> bool:
    """Whether its data are there."""
    return run.net != "cifar" or "POLYAK_TEST_DATA" in os.environ


def read(file: Path) -> list[dict]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def regrets(x: dict[str, str]) -> dict[str, float]:
    """By what share of what averaging gains the board is behind."""
    at = {name: float(x[name]) for name in ("last", "board", "exhaustive", "oracle", "plain")}
    own = {name: float(x[f"{name}_chosen"]) for name in ("last", "board", "exhaustive")}
    gain = at["last"] - at["oracle"]
    return {
        "regret": (at["board"] - at["exhaustive"]) / gain,
        "where it chose": (own["board"] - own["exhaustive"]) / (own["last"] - own["exhaustive"]),
        "best of all": (at["board"] - at["oracle"]) / gain,
        "regret without starts": (at["board"] - at["plain"]) / gain,
    }


def print_table(rows: list[dict], biases: list[dict]) -> None:
    """What the page shows."""
    heads = "run | last weights | board | chosen of all | regret | where it chose | best of all"
    print(f"| {heads} |\n|---|---|---|---|---|---|---|")
    for row in rows:
        if row["set"] == "held back":
            losses = [f"{float(row[n]):.4f}" for n in ("last", "board", "exhaustive")]
            shares = [f"{share:+.1%}" for share in list(regrets(row).values())[:3]]
            print("|", " | ".join([named(row), *losses, *shares]), "|")
    for name in SETS:
        mine = [regrets(row) for row in rows if row["set"] == name]
        for what in mine[0] if mine else ():
            each = sorted(found[what] for found in mine)
            within = sum(share <= 0.05 for share in each)
            middle = f"median {each[len(each) // 2]:+.1%}"
            print(f"{name}, {what}: at most 5 % in {within} of {len(each)}, {middle}")
        scores = sorted(int(row["scores"]) for row in rows if row["set"] == name)
        print(f"{name}: scores {scores}")
        print_starts(name, [row for row in rows if row["set"] == name])
    print("\n| run | bias | of the choosing half | one score's standard error |\n|---|---|---|---|")
    for row in biases:
        off, error, chosen, one = (float(v) for v in list(row.values())[-4:])
        print(f"| {named(row)} | {off:+.4f} ± {error:.4f} | {chosen:+.4f} | {one:.4f} |")


def print_starts(name: str, rows: list[dict]) -> None:
    """What starts are worth to the exhaustive board."""
    started = [row for row in rows if " from " in row["exhaustive_average"]]
    print(f"{name}: a start chosen in {len(started)} of {len(rows)}")
    for row in started:
        gain = float(row["last"]) - float(row["oracle"])
        off, own = (float(row[f"exhaustive{k}"]) - float(row[f"plain{k}"]) for k in ("", "_chosen"))
        gain_own = float(row["last_chosen"]) - float(row["exhaustive_chosen"])
        told = f"unseen {off:+.4f} ± {float(row['start_interval']):.4f} ({off / gain:+.1%})"
        print(f"  {named(row)}: where it chose {own / gain_own:+.1%}, {told}")


def named(row: dict) -> str:
    wrong = f", {float(row['wrong']):.0%} wrong labels" if float(row["wrong"]) else ""
    falls = " falling" if row["falls"] == "True" else ""
    return f"{row['net']}, rate {row['rate']}{falls}, {row['steps']} steps{wrong}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--bias", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    boards, biases = HERE / "boards.csv", HERE / "bias.csv"
    if asked.table:
        print_table(read(boards), read(biases))
    elif asked.bias:
        chosen = [run for run in HELD_BACK if run.seed == 10]
        fill(biases, bias, {"held back": chosen})
    else:
        fill(boards, measure, SETS)


if __name__ == "__main__":
    main()
