"""The tables of these pages, from the CSVs that are kept here.

python docs/results/tables.py [FOLDER]   of one folder, or of all
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

from across import print_across
from reading import (
    ACC,
    ANNEALED,
    LAST,
    LOSS,
    NATS,
    RECOMPUTED,
    SEARCHED,
    SEARCHED_SGD,
    SEARCHED_STOPPED,
    STOPPED,
    SWA,
    Line,
    by_arm,
    compared,
    lines,
    print_table,
)

from polyak.analysis.claims.extremes import place_in_others
from polyak.analysis.seeds import mean_interval

EFFECTS = (
    # metric; arm and phase of ours; those of what it is compared with
    *(("accuracy", ours, theirs) for ours in (ACC, LOSS) for theirs in (LAST, STOPPED, ANNEALED)),
    ("accuracy", ACC, ("swa_bn", "refit")),
    *(
        (metric, ours, theirs)
        for metric in ("accuracy", "memorised")
        for ours in (SEARCHED, ("ema_acc_bn", "search"))
        for theirs in (SEARCHED_SGD, SEARCHED_STOPPED)
    ),
    *(("loss", ACC, theirs) for theirs in (LAST, STOPPED, ANNEALED, ("swa_bn", "refit"))),
    *(("loss", SEARCHED, theirs) for theirs in (SEARCHED_SGD, SEARCHED_STOPPED)),
    ("loss", ("ema_acc_bn", "search"), SEARCHED_SGD),
    ("accuracy", ("power_bn", "search"), SEARCHED_SGD),
    *(
        (metric, (arm, "refit"), theirs)
        for metric in ("accuracy", "loss")
        for arm in ("power_bn", "tail_bn")
        for theirs in (LAST, RECOMPUTED)
    ),
    *((metric, arm, RECOMPUTED) for metric in ("accuracy", "loss") for arm in (ACC, LOSS, SWA)),
    *((metric, RECOMPUTED, LAST) for metric in ("accuracy", "loss")),
    *(("churn", ours, RECOMPUTED) for ours in (LOSS, ("power_bn", "refit"))),
    *(("js", LOSS, theirs) for theirs in (LAST, RECOMPUTED, ANNEALED)),
    *((metric, LOSS, theirs) for metric in ("loss", "ece") for theirs in (LAST, ANNEALED)),
    ("loss", ("ema_loss", "search"), SEARCHED_SGD),
    *((metric, SEARCHED, ("sgd_bn", "search")) for metric in ("ece", "ece_scaled")),
    *(
        (metric, (arm, "refit"), LAST)
        for metric in ("accuracy", "loss")
        for arm in ("lawa_bn", "swad_bn")
    ),
    *(("loss", LOSS, (arm, "refit")) for arm in ("power_bn", "tail_bn", "swa_bn")),
    *(("loss", arm, ANNEALED) for arm in (LAST, ("power_bn", "refit"))),
    *(
        (metric, (arm, "search"), SEARCHED_SGD)
        for metric in ("churn", "ece", "ece_scaled")
        for arm in ("ema_acc_bn", "swa_bn")
    ),
    *(("memorised", ACC, theirs) for theirs in (LAST, STOPPED, ANNEALED)),
    *(("churn", LOSS, theirs) for theirs in (LAST, STOPPED, ANNEALED)),
    *(
        (metric, SEARCHED, theirs)
        for metric in ("churn", "ece", "ece_floor", "ece_scaled")
        for theirs in (SEARCHED_SGD, SEARCHED_STOPPED)
    ),
    *(
        (metric, ("swa_bn", phase), ("sgd", phase))
        for metric in ("accuracy", "loss")
        for phase in ("search", "refit")
    ),
    ("accuracy", ANNEALED, LAST),
    ("memorised", ("sgd", "held"), SEARCHED_SGD),
)
EPOCHS = (0.05, 0.1, 0.25, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Shares of a run at which its curves are read."""

FIVE = 5
"""Epochs that a hold-out accuracy is the mean of, as in the paper's figure 1."""

PEAK = 34
"""First of the five epochs around the average's peak in the study of 80."""

HERE = Path(__file__).parent


def main(folders: list[Path]) -> None:
    for folder in folders:
        results, points = lines(folder / "results.csv"), lines(folder / "curves.csv")
        for row in dict.fromkeys(line["row"] for line in results):
            print(f"\n{folder.name}: {row}\n")
            own = [line for line in results if line["row"] == row]
            for table in of_row(own, [point for point in points if point["row"] == row]):
                print_table(table)
        print_table(varied(json.loads((folder / "plan.json").read_text()), results))
        for path in sorted((folder / "evaluations").glob("*.csv")):
            print(f"\n{folder.name}, test images {path.stem}\n")
            print_table(effects(lines(path)))
        if (folder / "batchnorm.csv").exists():
            print_table(batchnorm(lines(folder / "batchnorm.csv")))
        if (folder / "audit.csv").exists():
            print_table(audit(lines(folder / "audit.csv")))
    print_across(folders)


def of_row(results: list[Line], points: list[Line]) -> Iterator[Iterator[tuple[str, ...]]]:
    """The tables that a row has evidence for."""
    yield effects(results)
    yield fit(points)
    yield lead(points)
    parts, phases = ({point[column] for point in points} for column in ("part", "phase"))
    if "test" in parts:
        yield curves(points)
    if "annealed" in phases and "test" in parts:
        yield annealed(results, points)
    if "held" in phases:
        yield held(points)
    if "transfer" in {line["phase"] for line in results}:
        yield transfer(results)
    if "holdout_bn" in parts:
        yield statistics(points)


def varied(plan: dict[str, Any], results: list[Line]) -> Iterator[tuple[str, ...]]:
    """Models of the searches beside those of the row that is varied, averages beside SGD too."""
    against = {row["label"]: row["against"] for row in plan["rows"] if row["against"]}
    if against:
        yield "row, arm", "metric", "as it was", "varied", "difference"
    for label, base in against.items():
        ours, theirs = (
            by_arm([line for line in results if line["row"] == row]) for row in (label, base)
        )
        average = ("ema_acc_bn", "search")
        same = [(arm, arm) for arm in (SEARCHED_SGD, SEARCHED_STOPPED, average)]
        for arm, other in (*same, (average, SEARCHED_SGD), (SEARCHED, SEARCHED_SGD)):
            named = f"{label}: {arm[0]}" + ("" if arm == other else f", beside {other[0]}")
            for metric in ("accuracy", "loss"):
                sides = ours[metric, *arm], theirs[metric, *other]
                yield named, metric, *compared(*sides, percent=metric not in NATS)


def effects(results: list[Line]) -> Iterator[tuple[str, ...]]:
    """What averaging changes, seed by seed."""
    yield "metric", "models", "against", "theirs", "ours", "difference"
    values = by_arm(results)
    for metric, ours, theirs in EFFECTS:
        found, baseline = values.get((metric, *ours)), values.get((metric, *theirs))
        if found and baseline:
            named = (metric, ", ".join(ours), ", ".join(theirs))
            yield *named, *compared(found, baseline, percent=metric not in NATS)


def transfer(results: list[Line]) -> Iterator[tuple[str, ...]]:
    """Accuracy of linear probes, seed by seed."""
    yield "target", "features", "of SGD", "of the average", "difference"
    for target in dict.fromkeys(line["target"] for line in results if line["phase"] == "transfer"):
        values = by_arm([line for line in results if line["target"] == target])
        theirs = values["accuracy", "sgd", "transfer"]
        for arm in ("sgd_at_ema", "ema_acc_bn", "ema_loss_bn"):
            ours = values["accuracy", arm, "transfer"]
            yield target, arm, *compared(ours, theirs, percent=True)


def fit(points: list[Line]) -> Iterator[tuple[str, ...]]:
    """Training accuracy of SGD's last epoch, on images as they were trained on."""
    yield "phase", "fit"
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        if (point["part"], point["weights"]) == ("train", "sgd"):
            found[point["phase"]][int(point["epoch"])].append(float(point["accuracy"]))
    whole = max(epoch for epochs in found.values() for epoch in epochs)
    for phase in ("search", "refit"):
        # A run that has not ended has no last epoch.
        if last := found[phase].get(whole):
            yield phase, f"{100 * sum(last) / len(last):.1f}"


def lead(points: list[Line]) -> Iterator[tuple[str, ...]]:
    """Hold-out accuracy in the search: SGD, and the EMA that is best just then in other seeds.

    At the first epoch that ends at or after a share of the run, as in the ledger.
    """
    yield "epoch", "SGD", "best average", "lead"
    found: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for p in points:
        if (p["phase"], p["part"]) == ("search", "holdout"):
            found[int(p["epoch"])][p["seed"]][p["weights"]] = float(p["accuracy"])
    names = sorted({p["weights"] for p in points if p["weights"].startswith("ema_")})
    for epoch in dict.fromkeys(max(1, ceil(share * max(found))) for share in EPOCHS):
        bank = {seed: [of[name] for name in names] for seed, of in found[epoch].items()}
        best = {seed: bank[seed][place] for seed, place in place_in_others(bank, max).items()}
        sgd = {seed: of["sgd"] for seed, of in found[epoch].items()}
        yield str(epoch), *compared(best, sgd, percent=True)


def curves(points: list[Line]) -> Iterator[tuple[str, ...]]:
    """Test accuracy during the refit: SGD, the average with the longest window."""
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for point in points:
        if (point["phase"], point["part"]) == ("refit", "test"):
            by_seed = found[point["weights"]][int(point["epoch"])]
            by_seed[point["seed"]] = float(point["accuracy"])
    longest = max(name for name in found if name.startswith("ema_"))
    length = max(found["sgd"])
    yield "epoch", "SGD", longest, "difference"
    for share in EPOCHS:
        epoch = round(share * length)
        yield str(epoch), *compared(found[longest][epoch], found["sgd"][epoch], percent=True)
    peaks = [peak(found[name]) for name in ("sgd", longest)]
    yield "highest mean", *(f"{100 * mean:.1f}, epoch {epoch}" for epoch, mean in peaks), ""


def annealed(results: list[Line], points: list[Line]) -> Iterator[tuple[str, ...]]:
    """The longest average of the annealed runs, when these end: against their SGD and ours."""
    yield "metric, after the annealed run's last epoch", "from", "to", "difference"
    own = [p for p in points if (p["phase"], p["part"]) == ("annealed", "test")]
    longest = max(p["weights"] for p in own if p["weights"].startswith("ema_"))
    ends: dict[str, int] = {}
    for p in own:
        ends[p["seed"]] = max(int(p["epoch"]), ends.get(p["seed"], 0))
    values = by_arm(results)
    for metric in ("accuracy", "loss"):
        arms = {
            name: {
                p["seed"]: float(p[metric])
                for p in own
                if p["weights"] == name and int(p["epoch"]) == ends[p["seed"]]
            }
            for name in ("sgd", longest)
        }
        percent = metric != "loss"
        yield f"{metric}: SGD to {longest}", *compared(arms[longest], arms["sgd"], percent=percent)
        ours = values[metric, *ACC]
        yield f"{metric}: {longest} to ours", *compared(ours, arms[longest], percent=percent)


def held(points: list[Line]) -> Iterator[tuple[str, ...]]:
    """Hold-out accuracy at the end and around the peak: the learning rate falling, and held."""
    yield "what", "from", "to", "difference"
    longest = max(p["weights"] for p in points if p["weights"].startswith("ema_"))
    end = max(int(p["epoch"]) for p in points) - FIVE + 1
    means: dict[tuple[str, str, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for p in points:
        for first in (PEAK, end):
            if p["part"] == "holdout" and first <= int(p["epoch"]) < first + FIVE:
                found = means[p["phase"], p["weights"], first]
                found[p["seed"]] += float(p["accuracy"]) / FIVE
    for phase in ("search", "held"):
        at_end, at_peak = means[phase, longest, end], means[phase, longest, PEAK]
        lead = compared(at_end, means[phase, "sgd", end], percent=True)
        yield f"{phase}: SGD to {longest}, last epochs", *lead
        fall = compared(at_end, at_peak, percent=True)
        yield f"{phase}: {longest}, epochs from {PEAK} on to last epochs", *fall


def statistics(points: list[Line]) -> Iterator[tuple[str, ...]]:
    """Hold-out accuracy of the shortest and the longest average: averaged and recomputed BN."""
    yield "epoch", "weights", "averaged", "recomputed", "difference"
    found: dict[tuple[str, str, int], dict[str, float]] = defaultdict(dict)
    for p in points:
        found[p["weights"], p["part"], int(p["epoch"])][p["seed"]] = float(p["accuracy"])
    names = sorted({name for name, _, _ in found if name.startswith("ema_")})
    length = max(epoch for _, _, epoch in found)
    for share in EPOCHS:
        epoch = round(share * length)
        for name in ("sgd", names[0], names[-1]):
            averaged, recomputed = (found[name, part, epoch] for part in ("holdout", "holdout_bn"))
            yield str(epoch), name, *compared(recomputed, averaged, percent=True)
    yield "epoch", "statistics", "shortest", "longest", "difference"
    for share in EPOCHS:
        epoch = round(share * length)
        for part, words in (("holdout", "averaged"), ("holdout_bn", "recomputed")):
            shortest, longest = (found[name, part, epoch] for name in (names[0], names[-1]))
            yield str(epoch), words, *compared(longest, shortest, percent=True)


def peak(by_epoch: dict[int, dict[str, float]]) -> tuple[int, float]:
    """The epoch with the highest mean over seeds, and that."""
    means = {epoch: mean_interval(seeds.values()).mean for epoch, seeds in by_epoch.items()}
    best = max(means, key=lambda epoch: means[epoch])
    return best, means[best]


def batchnorm(measured: list[Line]) -> Iterator[tuple[str, ...]]:
    """Accuracy under other statistics of BatchNorm, against those that were saved."""
    yield "weights", "statistics", "as saved", "so", "difference"
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for line in measured:
        values[line["arm"], line["statistics"]][line["seed"]] = float(line["accuracy"])
    for (arm, statistics), found in values.items():
        if statistics != "as saved":
            yield arm, statistics, *compared(found, values[arm, "as saved"], percent=True)
    for arm in dict.fromkeys(arm for arm, _ in values if arm != "sgd"):
        sides = values[arm, "as saved"], values["sgd", "as saved"]
        yield f"{arm} against sgd", "as saved", *compared(*sides, percent=True)


def audit(scores: list[Line]) -> Iterator[tuple[str, ...]]:
    """AUROC of the chosen average's margin, against SGD's loss at its last and its best epoch."""
    yield "labels", "loss of", "its AUROC", "the margin's", "difference"
    values: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for line in scores:
        values[line["part"], line["score"], line["arm"]][line["seed"]] = float(line["auroc"])
    for part in ("all", "holdout"):
        margin = values[part, "margin", "ema_acc_bn"]
        for arm in ("sgd", "sgd_stopped"):
            yield part, arm, *compared(margin, values[part, "loss", arm], percent=False)


if __name__ == "__main__":
    kept = sorted(plan.parent for plan in HERE.glob("*/plan.json"))
    main([Path(name).resolve() for name in sys.argv[1:]] or kept)
