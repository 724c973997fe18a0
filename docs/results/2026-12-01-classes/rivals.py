"""The probe again with more arms: SGD with recomputed statistics, and averages up to the end.

python docs/results/2026-12-01-classes/rivals.py OUT    # probes the study's runs, writes rivals.csv
python docs/results/2026-12-01-classes/rivals.py        # prints the table from it

OUT is the output folder of the study, with its runs' weights.
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from reading import by_arm, compared, lines, print_table  # noqa: E402

from polyak.metrics import accuracy  # noqa: E402
from polyak.records.predictions import Predictions  # noqa: E402
from polyak.records.runs import run_folder  # noqa: E402
from polyak.records.studies import read_study  # noqa: E402
from polyak.training.config import ProbeConfig  # noqa: E402
from polyak.training.config_file import read_config  # noqa: E402
from polyak.training.jobs import carry_out  # noqa: E402

FILE = HERE / "rivals.csv"
AVERAGES = ("ema_acc_bn", "ema_loss_bn", "power_bn", "tail_bn", "swa_bn")
RIVALS = ("sgd", "sgd_bn", "sgd_at_ema_bn")


def probe(out: Path) -> None:
    """Probe the arms of the study's refits, and write each one's accuracy by seed."""
    (row,) = read_study(out / "cifar10-classes-more").rows
    (probed,) = row.transfer.values()
    job = read_config(run_folder(out, probed).path / "config.json")
    assert isinstance(job, ProbeConfig)
    job = replace(job, arms=(*RIVALS, *AVERAGES))
    carry_out(job, out)
    predictions = Predictions(run_folder(out, job.id).predictions)
    labels_n = predictions.labels_n("test")
    with FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("metric", "arm", "phase", "seed", "value"))
        for seed, run in row.refit.items():
            for arm in job.arms:
                right = accuracy(predictions.logits_nk("test", f"{run}.{arm}"), labels_n)
                writer.writerow(("accuracy", arm, "transfer", seed, right))


def main(out: str | None = None) -> None:
    if out is not None:
        probe(Path(out))
    values = by_arm(lines(FILE))
    print_table([("features of", "against", "theirs", "ours", "difference"), *_rows(values)])


def _rows(values: dict[tuple[str, ...], dict[str, float]]) -> list[tuple[str, ...]]:
    pairs = [(ours, theirs) for ours in AVERAGES for theirs in RIVALS]
    return [
        (
            ours,
            theirs,
            *compared(
                values["accuracy", ours, "transfer"],
                values["accuracy", theirs, "transfer"],
                percent=True,
            ),
        )
        for ours, theirs in (*pairs, ("sgd_bn", "sgd"))
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
