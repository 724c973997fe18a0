"""Reading what is kept of a study, and what its tables consist of."""

import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from polyak.analysis.claims.claim import paired, pseudo_values
from polyak.analysis.seeds import mean_interval

LAST, STOPPED, ANNEALED = ("sgd", "refit"), ("sgd_stopped", "refit"), ("sgd", "annealed")
RECOMPUTED, SWA = ("sgd_bn", "refit"), ("swa_bn", "refit")
ACC, LOSS = ("ema_acc_bn", "refit"), ("ema_loss_bn", "refit")
SEARCHED, SEARCHED_SGD = ("ema_loss_bn", "search"), ("sgd", "search")
SEARCHED_STOPPED = ("sgd_stopped", "search")
NATS = ("loss", "js")
"""Metrics that are no share of the test images."""

Line = dict[str, str]


def lines(path: Path) -> list[Line]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def by_arm(results: list[Line]) -> dict[tuple[str, ...], dict[str, float]]:
    """Values by seed, by metric, arm and phase."""
    values: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for line in results:
        values[line["metric"], line["arm"], line["phase"]][line["seed"]] = float(line["value"])
    return values


def compared(
    ours: dict[str, float], theirs: dict[str, float], *, percent: bool
) -> tuple[str, str, str]:
    """The baseline's mean, ours, and the difference with its 95 % interval over seeds."""
    scale, form = (100, ".1f") if percent else (1, ".3f")
    differences = paired(ours, theirs)
    if any("-" in seeds for seeds in differences):
        differences = pseudo_values(differences)
    found = mean_interval(scale * value for value in differences.values())
    means = (f"{scale * mean_interval(each.values()).mean:{form}}" for each in (theirs, ours))
    if found.low is None:  # One seed.
        return *means, f"{found.mean:+{form}}"
    return *means, f"{found.mean:+{form}} [{found.low:{form}}, {found.high:{form}}]"


def print_table(rows: Iterable[tuple[str, ...]]) -> None:
    """As Markdown."""
    for number, row in enumerate(rows):
        print(f"| {' | '.join(row)} |")
        if number == 0:
            print("|" + "---|" * len(row))
    print()
