"""When does averaging pay: the map's tables and its figure, from what is kept of the studies.

python docs/results/2026-12-01-map/map.py             # prints the tables
python docs/results/2026-12-01-map/map.py --figure    # draws map.svg too

Written down on 1 December 2026, 03:56 UTC, before the first of the map's runs: in the older studies
with right labels it is the gap, SGD's hold-out loss after its last epoch − its training loss then,
that orders the gains in loss (0.2 to 0.4: 0.01 nats; 0.5: 0.035; 0.7 and 0.8: 0.12 and 0.075), and
neither fit (Fashion-MNIST fits 95 % and gains nothing) nor turnover. If that is right, over the
map's cells the rank correlation of the gain with the gap is at least 0.8, and higher than that with
turnover.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import figure  # noqa: E402
from reading import Line, by_arm, compared, lines, print_table  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402

from polyak.analysis.seeds import mean_interval  # noqa: E402

MIDDLE = "2026-11-30-cifar10-fit"
"""The study that is the map's cell of 120 epochs and weight decay 8.5e-4."""

CIFAR, PEOPLE = "CIFAR-10 (JPEG q75), ResNet-20", "CIFAR-10N worse (JPEG q75), ResNet-20"
OLDER = (
    ("2026-11-23-cifar10", CIFAR),
    ("2026-11-28-cifar10-decay", f"{CIFAR}, weight decay 0.001"),
    ("2026-11-23-cifar10", "CIFAR-10 (JPEG q75), ResNet-8"),
    ("2026-12-01-averages-resnet", "ResNet-20"),
    ("2026-11-24-fashion", "Fashion-MNIST, ResNet-20"),
    ("2026-11-23-cifar10n-80", PEOPLE),
    ("2026-11-28-cifar10n-decay", f"{PEOPLE}, weight decay 0.001"),
    ("2026-11-24-fashion-noise", "Fashion-MNIST, 40 % noise, ResNet-20"),
)
"""Studies with SGD annealed in the average's budget: a folder, and a row's label."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row of a study lies on the map, and what its averages gained there."""

    study: str
    row: str
    phase: str
    """Whose models: "search", or "refit" where all images were trained on again."""

    wrong: bool
    """Whether labels are wrong."""

    epochs: int
    decay: float
    turnover: float
    fit: float
    """Training accuracy of SGD's last epoch, a fraction."""

    gap: float
    """SGD's hold-out loss after its last epoch in the search − its training loss then, nats."""

    window: dict[str, float]
    """By seed, hold-out accuracy of the longest window − the shortest's in the middle half of the
    search, statistics averaged along: the failure of figure 1b where it is far below 0."""

    stopped: float
    """Epoch of EMA (acc.), a share of the run, mean over seeds."""

    values: dict[tuple[str, ...], dict[str, float]]
    """By metric, arm and phase, and by seed."""

    def gain(self, metric: str, ours: str, theirs: tuple[str, str]) -> tuple[float, str]:
        """Mean and words of an arm − another, seed by seed."""
        a, b = self.values[metric, ours, self.phase], self.values[metric, *theirs]
        words = compared(a, b, percent=metric == "accuracy")[2]
        return mean_interval(a[seed] - b[seed] for seed in a if seed in b).mean, words

    def early(self, metric: str) -> tuple[float, str]:
        """EMA (acc.) + BN − SGD annealed in as many epochs."""
        return self.gain(metric, "ema_acc_bn", ("sgd", "annealed"))


def main(*, draw: bool) -> None:
    found = [*places(HERE), *places(HERE.parent / MIDDLE)]
    found.sort(key=lambda place: (place.epochs, place.decay))
    print_table(table(found))
    print_table(ranks(found))
    print_table(windows(found))
    older = [
        place
        for folder, label in OLDER
        for place in places(HERE.parent / folder)
        if place.row == label
    ]
    print_table(table(older, names=True))
    print_table(ranks([place for place in older if not place.wrong]))
    if draw:
        figure.draw(HERE / "map.svg", found, older)


def table(found: list[Place], *, names: bool = False) -> Iterator[tuple[str, ...]]:
    """What averages gained at each place."""
    yield (
        *(("study",) if names else ()),
        "epochs",
        "weight decay",
        "turnover",
        "fit, %",
        "gap",
        "SGD, %",
        "stopped at",
        "accuracy − SGD annealed by then",
        "loss − that",
        "accuracy − SGD + BN, last epoch",
        "loss − that",
        "power at the end: accuracy − SGD + BN",
        "loss − that",
    )
    for place in found:
        last = ("sgd_bn", place.phase)
        sgd = mean_interval(place.values["accuracy", "sgd", place.phase].values()).mean
        pairs = [("ema_acc_bn", ("sgd", "annealed")), ("ema_acc_bn", last), ("power_bn", last)]
        yield (
            *((f"{place.study}, {place.row}",) if names else ()),
            str(place.epochs),
            f"{place.decay:g}",
            f"{place.turnover:.2g}" if place.turnover < 10 else f"{place.turnover:.1f}",
            f"{100 * place.fit:.1f}",
            f"{place.gap:.2f}",
            f"{100 * sgd:.1f}",
            f"{place.stopped:.2f}",
            *(
                place.gain(metric, ours, theirs)[1]
                if {(metric, ours, place.phase), (metric, *theirs)} <= place.values.keys()
                else ""
                for ours, theirs in pairs
                for metric in ("accuracy", "loss")
            ),
        )


def places(folder: Path) -> Iterator[Place]:
    """The rows of a study whose SGD was annealed in the average's budget."""
    plan, choices = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("plan", "choices")
    )
    # Some studies were evaluated on all test images later, which says more than on their 1,500.
    again = sorted((folder / "evaluations").glob("*.csv"))
    results, curves = lines([folder / "results.csv", *again][-1]), lines(folder / "curves.csv")
    for row in plan["rows"]:
        values = by_arm([line for line in results if line["row"] == row["label"]])
        if ("accuracy", "sgd", "annealed") not in values:
            continue
        phase = "refit" if row["refits"] else "search"
        searched, own = (
            [p for p in curves if (p["row"], p["phase"]) == (row["label"], which)]
            for which in ("search", phase)
        )
        config = json.loads((folder / "configs" / f"{own[0]['run']}.json").read_text())
        stops = choices[row["label"]]["stops"].values()
        epochs = [stop["epoch"] for of in stops for stop in of if stop["rule"] == "acc"]
        yield Place(
            study=folder.name,
            row=row["label"],
            phase=phase,
            wrong=config["data"]["noise"]["kind"] != "none",
            epochs=config["epochs"],
            decay=config["optim"]["weight_decay"],
            turnover=turnover(config, held_out=phase == "search"),
            fit=fit(own, config["epochs"]),
            gap=gap(searched),
            window=window(searched),
            stopped=mean_interval(epoch / config["epochs"] for epoch in epochs).mean,
            values=values,
        )


def turnover(config: dict[str, Any], *, held_out: bool) -> float:
    """How often weight decay renews the weights in a run with a cosine.

    Σ lr·weight decay / (1 − momentum) over steps; warm-up and cosine have half of lr in the mean.
    """
    data, optim = config["data"], config["optim"]
    images = data["train_limit"] * (1 - data["holdout"] * held_out)
    steps = config["epochs"] * ceil(images / config["batch_size"])
    rate: float = optim["lr"] / 2 * optim["weight_decay"] / (1 - optim["momentum"])
    return rate * steps


def fit(points: list[Line], last: int) -> float:
    """Training accuracy of SGD's last epoch, mean over seeds, on images as they were trained on."""
    return mean_interval(
        float(p["accuracy"])
        for p in points
        if (p["part"], p["weights"], int(p["epoch"])) == ("train", "sgd", last)
    ).mean


def gap(points: list[Line]) -> float:
    """SGD's hold-out loss − its training loss after the last epoch, mean over seeds."""
    last = max(int(p["epoch"]) for p in points)
    ends = [p for p in points if (p["weights"], int(p["epoch"])) == ("sgd", last)]
    held, trained = (
        mean_interval(float(p["loss"]) for p in ends if p["part"] == part).mean
        for part in ("holdout", "train")
    )
    return held - trained


def window(points: list[Line]) -> dict[str, float]:
    """Accuracy of the longest window − the shortest's in the middle half of the run, by seed."""
    last = max(int(p["epoch"]) for p in points)
    bank = sorted({p["weights"] for p in points if p["weights"].startswith("ema_")})
    held: dict[tuple[str, str], list[float]] = defaultdict(list)
    for p in points:
        if p["part"] == "holdout" and 0.25 * last < int(p["epoch"]) <= 0.75 * last:
            held[p["weights"], p["seed"]].append(float(p["accuracy"]))
    seeds = {seed for _, seed in held}
    return {seed: mean(held[bank[-1], seed]) - mean(held[bank[0], seed]) for seed in seeds}


def windows(found: list[Place]) -> Iterator[tuple[str, ...]]:
    """Figure 1b at each place."""
    yield "epochs", "weight decay", "turnover", "longest − shortest window, points"
    for place in found:
        each = mean_interval(100 * value for value in place.window.values())
        text = f"{each.mean:+.1f} [{each.low:.1f}, {each.high:.1f}]"
        yield str(place.epochs), f"{place.decay:g}", f"{place.turnover:.2g}", text


def ranks(found: list[Place]) -> Iterator[tuple[str, ...]]:
    """How far what is known of SGD orders the gain in loss."""
    yield "the gain in loss against", "rank correlation"
    gains = [-place.early("loss")[0] for place in found]
    for words, of in (
        ("gap", [place.gap for place in found]),
        ("fit", [place.fit for place in found]),
        ("turnover", [place.turnover for place in found]),
        ("epochs", [place.epochs for place in found]),
    ):
        yield words, f"{spearmanr(of, gains).statistic:.2f}"


if __name__ == "__main__":
    main(draw="--figure" in sys.argv[1:])
