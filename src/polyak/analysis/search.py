"""What the search found at each learning rate, and how its runs ended."""

from dataclasses import dataclass
from pathlib import Path

from polyak.analysis.curves import BASELINE
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RateScore:
    """One learning rate of the search."""

    rate: float
    best: dict[str, float]
    """By seed: SGD's best hold-out accuracy over epochs, a fraction. Finished runs only."""

    unfinished: dict[str, str]
    """By seed: "diverged", or "not finished"."""

    chosen: bool


def rate_scores(out: Path, row: RowRecord) -> list[RateScore]:
    """What each learning rate was chosen by, lowest rate first.

    The number is a maximum over epochs on the hold-out: good for choosing, too high as a result.
    """
    found, own = [], row.seed_learning_rates.values()
    for text, runs in sorted(row.search.items(), key=lambda item: float(item[0])):
        best: dict[str, float] = {}
        unfinished: dict[str, str] = {}
        for seed, run_id in runs.items():
            folder = run_folder(out, run_id)
            scores = [r.holdout[BASELINE].accuracy for r in folder.epochs() if r.holdout]
            if folder.ending == "done" and scores:
                best[seed] = max(scores)
            else:
                unfinished[seed] = folder.ending or "not finished"
        chosen = text in {f"{rate:g}" for rate in (row.chosen_learning_rate, *own) if rate}
        found.append(RateScore(rate=float(text), best=best, unfinished=unfinished, chosen=chosen))
    return found
