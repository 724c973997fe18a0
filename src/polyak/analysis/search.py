"""What the search found at each learning rate, and how its runs ended."""

from dataclasses import dataclass

from polyak.analysis.loaded import LoadedRow
from polyak.records.vocabulary import BASELINE


@dataclass(frozen=True, slots=True, kw_only=True)
class RateScore:
    """One learning rate of the search."""

    learning_rate: float
    best: dict[str, float]
    """By seed: SGD's best hold-out accuracy over epochs, a fraction. Finished runs only."""

    unfinished: dict[str, str]
    """By seed: "diverged", or "not finished"."""

    chosen: bool


def rate_scores(row: LoadedRow) -> list[RateScore]:
    """What each learning rate was chosen by, lowest rate first.

    The number is a maximum over epochs on the hold-out: good for choosing, too high as a result.
    """
    record, found = row.record, []
    own = record.seed_learning_rates.values()
    chosen = {f"{rate:g}" for rate in (record.chosen_learning_rate, *own) if rate}
    for text, runs in sorted(row.searched().items(), key=lambda item: float(item[0])):
        best: dict[str, float] = {}
        unfinished: dict[str, str] = {}
        for seed, run in runs.items():
            scores = [r.holdout[BASELINE].accuracy for r in run.log.epochs if r.holdout]
            if run.done and scores:
                best[seed] = max(scores)
            else:
                unfinished[seed] = run.ending or "not finished"
        found.append(
            RateScore(
                learning_rate=float(text),
                best=best,
                unfinished=unfinished,
                chosen=text in chosen,
            )
        )
    return found
