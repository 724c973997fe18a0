"""The tables of README.md: scales that were tried, and what others would cost.

python docs/results/2026-11-30-scale/table.py [OUT]   with OUT, scales.csv is written anew first
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from polyak.analysis.timescales import decay_timescales
from polyak.records.runs import RunFolder, run_folder
from polyak.records.studies import read_study

SCALES = Path(__file__).parent / "scales.csv"

SPEEDS = {16: (1.8, 0.25), 24: (2.5, 0.64), 32: (4.5, 0.68)}
"""CPU ms an image by width, training and evaluation in bfloat16, of docs/harness-speed.md."""

CANDIDATES = (
    # Images, a fifth of them held out; width; epochs.
    (10_000, 16, 80),
    (10_000, 16, 120),
    (20_000, 16, 80),
    (50_000, 16, 40),
    (10_000, 24, 60),
    (20_000, 24, 60),
    (10_000, 32, 60),
    (20_000, 32, 60),
    (20_000, 32, 80),
    (50_000, 32, 40),
)
BATCH, RATE, MOMENTUM = 64, 0.2, 0.9
PAPER_TURNOVER = 12.5
"""Of the paper's search on CIFAR-10."""

SEEDS, PHASES = 4, 2.8
"""A study: the search, a refit of 1.25 times as many images with little to evaluate, and SGD
annealed in about three quarters of that."""


def main(out: Path | None) -> None:
    if out is not None:
        rows = read_study(out / "scale").rows
        ids = [
            run_id for row in rows for of_rate in row.search.values() for run_id in of_rate.values()
        ]
        found = [
            scale(run_folder(out, run_id))
            for run_id in ids
            if run_folder(out, run_id).ending == "done"
        ]
        with SCALES.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, found[0])
            writer.writeheader()
            writer.writerows(found)
    with SCALES.open(encoding="utf-8") as file:
        show(tried(csv.DictReader(file)))
    show(estimated())


def show(lines: Iterator[tuple[str, ...]]) -> None:
    for cells in lines:
        print("| " + " | ".join(cells) + " |")
    print()


def scale(folder: RunFolder) -> dict[str, str]:
    """What a run took and where it got to."""
    config, epochs = folder.config(), folder.epochs()
    optim, last = config["optim"], epochs[-1]
    turnover = decay_timescales(
        epochs, weight_decay=optim["weight_decay"], momentum=optim["momentum"]
    )
    bank = [name for name in last.holdout if name != "sgd"]
    return {
        "run": folder.path.name,
        "images": str(config["data"]["train_limit"]),
        "trained_on": str(folder.facts()["images"]),
        "width": str(config["model"]["width"]),
        "epochs": str(config["epochs"]),
        "batch_size": str(config["batch_size"]),
        "weight_decay": f"{optim['weight_decay']:g}",
        "updates": str(last.step // config["averaging"]["every"]),
        "seconds": f"{last.seconds:.0f}",
        "turnover": f"{turnover:.2f}",
        "fit": f"{last.train.accuracy:.4f}",
        "sgd_best": f"{max(r.holdout['sgd'].accuracy for r in epochs):.4f}",
        "sgd_last": f"{last.holdout['sgd'].accuracy:.4f}",
        "average_best": f"{max(r.holdout[name].accuracy for r in epochs for name in bank):.4f}",
        "average_epoch": str(
            max(epochs, key=lambda r: max(r.holdout[name].accuracy for name in bank)).epoch
        ),
    }


def tried(scales: Iterator[dict[str, str]]) -> Iterator[tuple[str, ...]]:
    yield (
        "images",
        "width",
        "epochs",
        "weight decay",
        "hours",
        "updates",
        "turnover",
        "fit, %",
        "hold-out: SGD, %",
        "best average, % (epoch)",
    )
    yield ("---",) * 10
    for s in scales:
        yield (
            f"{int(s['images']):,}",
            s["width"],
            s["epochs"],
            s["weight_decay"],
            f"{int(s['seconds']) / 3600:.2f}",
            s["updates"],
            f"{float(s['turnover']):.1f}",
            f"{100 * float(s['fit']):.1f}",
            f"{100 * float(s['sgd_last']):.1f}",
            f"{100 * float(s['average_best']):.1f} ({s['average_epoch']})",
        )


def estimated() -> Iterator[tuple[str, ...]]:
    """Hours of processor time without what is done at a run's end, a tenth to a third more."""
    yield (
        "images",
        "width",
        "epochs",
        "hours a search run",
        f"hours for {SEEDS} seeds",
        f"weight decay for a turnover of {PAPER_TURNOVER}",
    )
    yield ("---",) * 6
    for images, width, epochs in CANDIDATES:
        holdout = images // 5
        training, evaluation = SPEEDS[width]
        ms = epochs * ((images - holdout) * training + 6 * holdout * evaluation)
        steps = epochs * -(-(images - holdout) // BATCH)
        # The cosine's mean is half of the peak.
        decay = PAPER_TURNOVER * (1 - MOMENTUM) / (RATE / 2 * steps)
        hours = ms / 3.6e6
        yield (
            f"{images:,}",
            str(width),
            str(epochs),
            f"{hours:.1f}",
            f"{SEEDS * PHASES * hours:.0f}",
            f"{decay:.2g}",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
