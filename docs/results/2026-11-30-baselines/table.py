"""The table of README.md: the last iterate of each run that was tried.

python docs/results/2026-11-30-baselines/table.py [OUT STUDY…]: with OUT, from its runs
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from polyak.records.runs import run_folder
from polyak.records.studies import read_study

BASELINES = Path(__file__).parent / "baselines.csv"
HEADS = (
    "row",
    "learning rate",
    "seed",
    "epochs",
    "training loss",
    "hold-out loss",
    "hold-out accuracy, %",
)


def main(out: Path | None, studies: Sequence[str]) -> None:
    """Write the CSV where there are runs, and print it as a table."""
    if out is not None:
        with BASELINES.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEADS)
            writer.writerows(line for study in studies for line in last_iterates(out, study))
    with BASELINES.open(encoding="utf-8") as file:
        lines = list(csv.reader(file))
    print("\n".join("| " + " | ".join(line) + " |" for line in (lines[0], ["---"] * len(HEADS))))
    print("\n".join("| " + " | ".join(line) + " |" for line in lines[1:]))


def last_iterates(out: Path, study: str) -> Iterator[list[str]]:
    """A line for each run of a study that is done."""
    for row in read_study(out / study).rows:
        for rate, by_seed in row.search.items():
            for seed, run_id in by_seed.items():
                folder = run_folder(out, run_id)
                if folder.ending == "done":
                    last = folder.epochs()[-1]
                    ours = last.holdout["sgd"]
                    numbers = [f"{last.train.loss:.3f}", f"{ours.loss:.4f}"]
                    numbers.append(f"{100 * ours.accuracy:.2f}")
                    yield [row.label, rate, seed, str(last.epoch), *numbers]


if __name__ == "__main__":
    given = sys.argv[1:]
    main(Path(given[0]) if given else None, given[1:])
