"""Tables that set one study against another."""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from reading import (
    ACC,
    ANNEALED,
    LAST,
    NATS,
    SEARCHED,
    SEARCHED_SGD,
    STOPPED,
    Line,
    by_arm,
    compared,
    lines,
    print_table,
)
from scipy.stats import ttest_ind

from polyak.analysis.seeds import mean_interval

HERE = Path(__file__).parent
HALF, WHOLE = HERE / "2026-11-23-cifar10n", HERE / "2026-11-23-cifar10n-80"
"""The same study with half and with all of the epochs."""

REDRAWN, FASHION = HERE / "2026-11-24-cifar10-noise", HERE / "2026-11-24-fashion-noise"
"""The same study on other images."""

PLAIN, PLAIN_MORE = HERE / "2026-11-23-cifar10", HERE / "2026-11-28-cifar10-decay"
"""Right labels, and the row of ResNet-20 with ten times the weight decay."""

PEOPLE = HERE / "2026-11-24-cifar10n-60"
"""The first of these with people's wrong labels."""

PEOPLE_MORE = HERE / "2026-11-28-cifar10n-decay"
"""The same with ten times the weight decay."""


def print_across(folders: list[Path]) -> None:
    """Those for which all studies are among the folders."""
    if {HALF, WHOLE} <= set(folders):
        print("\nthe average of 80 epochs against SGD annealed in 40\n")
        print_table(against_half(lines(HALF / "results.csv"), lines(WHOLE / "results.csv")))
    for less, more in ((PLAIN, PLAIN_MORE), (PEOPLE, PEOPLE_MORE)):
        if {less, more} <= set(folders):
            print(f"\n{more.name} (weight decay 1e-3) against {less.name} (1e-4)\n")
            same = [x for x in lines(less / "results.csv") if x["row"].endswith("ResNet-20")]
            print_table(more_decay(lines(more / "results.csv"), same))
    noisy = [FASHION, REDRAWN, HALF, PEOPLE, WHOLE]
    if set(noisy) <= set(folders):
        print("\nwrong labels memorised by the models of 80 % of the images\n")
        print_table(fitted({folder: lines(folder / "results.csv") for folder in noisy}))


def against_half(shorter: list[Line], longer: list[Line]) -> Iterator[tuple[str, ...]]:
    """The average stopped in the longer study, and SGD on the shorter's whole schedule."""
    yield "metric", "SGD", "average", "difference"
    short, long = by_arm(shorter), by_arm(longer)
    for metric in ("accuracy", "loss", "memorised"):
        sgd, average = short[metric, *LAST], long[metric, *ACC]
        shared = {seed: average[seed] for seed in sgd}
        yield metric, *compared(shared, sgd, percent=metric not in NATS)


def more_decay(more: list[Line], less: list[Line]) -> Iterator[tuple[str, ...]]:
    """What weight decay does to SGD and averages, and SGD with more against averages with less."""
    yield "with more, with less", "metric", "less", "more", "difference"
    ours, theirs = by_arm(more), by_arm(less)
    average = ("ema_acc_bn", "search")
    pairs = [(arm, arm) for arm in (SEARCHED_SGD, average, SEARCHED, LAST, STOPPED, ACC, ANNEALED)]
    pairs += [(SEARCHED_SGD, average), (SEARCHED_SGD, SEARCHED), (LAST, ACC)]
    for left, right in pairs:
        for metric in ("accuracy", "loss", "ece", "memorised"):
            sides = ours.get((metric, *left)), theirs.get((metric, *right))
            if sides[0] and sides[1]:
                named = f"{', '.join(left)}; {', '.join(right)}"
                yield named, metric, *compared(*sides, percent=metric not in NATS)


def fitted(results: dict[Path, list[Line]]) -> Iterator[tuple[str, ...]]:
    """Wrong labels that the searches' models give, and how many more of another kind (Welch)."""
    yield "study", "SGD, last epoch", "EMA (acc.) + BN"
    shares = {
        folder: [
            [
                100 * float(line["value"])
                for line in found
                if (line["metric"], line["arm"], line["phase"]) == ("memorised", *arm)
            ]
            for arm in (SEARCHED_SGD, ("ema_acc_bn", "search"))
        ]
        for folder, found in results.items()
    }
    for folder, arms in shares.items():
        yield (
            folder.name,
            *(f"{i.mean:.1f} [{i.low:.1f}, {i.high:.1f}]" for i in map(mean_interval, arms)),
        )
    for more, less in ((REDRAWN, FASHION), (PEOPLE, REDRAWN)):
        pairs = zip(shares[more], shares[less], strict=True)
        yield f"{more.name} − {less.name}", *(welch(ours, theirs) for ours, theirs in pairs)


def welch(ours: list[float], theirs: list[float]) -> str:
    """How much more ours are in the mean, with its 95 % interval; seeds unpaired."""
    low, high = ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    return f"{mean(ours) - mean(theirs):+.1f} [{low:.1f}, {high:.1f}]"
