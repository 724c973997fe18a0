"""How far seeds differ in the first studies kept here, a line a metric: for power beforehand.

Standard deviations over seeds, the median over rows of three seeds and more: of EMA (acc.) + BN −
SGD, and of EMA (acc.) + BN alone. Curves are the hold-out's at shares of the run: the average that
is best in the other seeds − SGD, and alone; then the longest − the shortest average, and alone.
Epochs are those of EMA (acc.) and EMA (loss).
`analysis/claims/power.py` has these numbers.
"""

import csv
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from polyak.analysis.claims.claim import paired, pseudo_values
from polyak.analysis.claims.extremes import place_in_others

HERE = Path(__file__).parent
UNTIL = "2026-11-28"
"""Studies kept later are left out, so that what was registered in the meantime stays comparable."""

OF_REFITS = ("accuracy", "loss", "brier", "ece", "memorised", "churn", "js")
OF_SEARCHES = ("ece_scaled", "loss_scaled", "holdout_accuracy")
SHARES, LEAST = (0.1, 0.25, 0.5, 0.75, 1.0), 3
Values = dict[str, float]


def spreads(folder: Path = HERE) -> dict[str, tuple[float, float, int]]:
    """By metric: spread of the difference, of one number, and how many rows these are of."""
    found: dict[str, list[tuple[Values, Values]]] = defaultdict(list)
    kept = (path.parent for path in folder.glob("*/results.csv") if path.parent.name[:10] <= UNTIL)
    for study in sorted(kept):
        for metric, ours, theirs in [*_of_results(study), *_of_curves(study), *_of_epochs(study)]:
            if metric in ("churn", "js"):
                pair = pseudo_values(paired(ours, theirs)), pseudo_values(ours)
            else:
                pair = paired(ours, theirs), ours
            if len(pair[0]) >= LEAST:
                found[metric].append(pair)
    return {
        metric: (_median(d for d, _ in pairs), _median(one for _, one in pairs), len(pairs))
        for metric, pairs in found.items()
    }


def _median(samples: Iterable[Values]) -> float:
    return statistics.median(statistics.stdev(x.values()) for x in samples)


def _of_results(study: Path) -> Iterator[tuple[str, Values, Values]]:
    rows: dict[str, dict[tuple[str, ...], Values]] = defaultdict(lambda: defaultdict(dict))
    for line in _lines(study / "results.csv"):
        if line["target"] == "test":
            key = line["phase"], line["metric"], line["arm"]
            rows[line["row"]][key][line["seed"]] = float(line["value"])
    for numbers in rows.values():
        for phase, metrics in (("refit", OF_REFITS), ("search", OF_SEARCHES)):
            for metric in metrics:
                yield metric, *(numbers[phase, metric, arm] for arm in ("ema_acc_bn", "sgd"))


def _of_curves(study: Path) -> Iterator[tuple[str, Values, Values]]:
    plan, choices = (json.loads((study / f"{x}.json").read_text()) for x in ("plan", "choices"))
    kept = {
        (line["run"], line["epoch"], line["weights"]): line
        for line in _lines(study / "curves.csv")
        if line["part"] == "holdout"
    }
    for row in plan["rows"]:
        rate = choices[row["label"]]["chosen_learning_rate"]
        runs = {} if rate is None else row["search"][f"{rate:g}"]
        lengths = {
            run: max((int(k[1]) for k in kept if k[0] == run), default=0) for run in runs.values()
        }
        for metric, share in product(("accuracy", "loss"), SHARES):
            bank: dict[str, list[float]] = {}
            sgd: Values = {}
            for seed, run in runs.items():
                epoch = str(max(1, math.ceil(share * lengths[run])))
                if (run, epoch, "sgd") in kept:
                    bank[seed] = [float(kept[run, epoch, a][metric]) for a in row["averages"]]
                    sgd[seed] = float(kept[run, epoch, "sgd"][metric])
            best = place_in_others(bank, max if metric == "accuracy" else min)
            yield f"{metric} at {share:g}", {s: bank[s][i] for s, i in best.items()}, sgd
            ends = ({s: x[place] for s, x in bank.items()} for place in (-1, 0))
            yield f"{metric} of two at {share:g}", *ends


def _of_epochs(study: Path) -> Iterator[tuple[str, Values, Values]]:
    plan, choices = (json.loads((study / f"{x}.json").read_text()) for x in ("plan", "choices"))
    for row in plan["rows"]:
        configs = [study / "configs" / f"{run}.json" for run in row["refit"].values()]
        configs += [
            study / "configs" / f"{r}.json" for x in row["search"].values() for r in x.values()
        ]
        known = [json.loads(path.read_text())["epochs"] for path in configs if path.exists()]
        stops = choices[row["label"]]["stops"]
        by_rule: dict[str, Values] = {"acc": {}, "loss": {}}
        for seed, of in stops.items() if known else ():
            for stop in of:
                if stop["rule"] in by_rule:
                    by_rule[stop["rule"]][seed] = stop["epoch"] / known[0]
        yield "epoch", by_rule["acc"], by_rule["loss"]


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


if __name__ == "__main__":
    for name, (difference, alone, count) in spreads().items():
        print(f"{name:18} {difference:.4f} {alone:.4f}   {count} rows")
