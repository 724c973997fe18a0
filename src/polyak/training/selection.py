"""Everything that chooses, as pure functions over hold-out records.

They take `EpochRecord`s, the lines of log.jsonl, so nothing here can see test data. Ties go to
the earliest epoch, then to the shortest window.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from polyak.errors import DataError
from polyak.records.runs import EpochRecord, Score
from polyak.records.vocabulary import BASELINE, Rule, Selection, Stop

Lost = Literal["diverged", "failed"]
"""A run without records to choose from."""


def choose_stop(
    records: Sequence[EpochRecord],
    *,
    rule: Rule,
    averages: Sequence[str],
    selection: Selection = "paper",
    paper_code: Sequence[str] = (),
) -> Stop:
    """The epoch and weights that a rule picks.

        sgd:   argmax_e accuracy(SGD, e)
        acc:   argmax_e max_d accuracy(EMA_d, e)
        loss:  argmin_e min_d loss(EMA_d, e)

    Args:
        records: The epochs so far, each with hold-out scores.
        rule: Which of the three.
        averages: The bank's names, from the shortest window to the longest.
        selection: "bn_safe" takes the scores with recomputed BatchNorm statistics.
        paper_code: With "loss-decay" the lowest loss chooses the epoch, and accuracy the decay.

    Raises:
        DataError: if there is no record, or one without hold-out scores: nothing else may choose.

    Source:
        Sections 3.1 and 4.1 of the paper. That "loss" takes the lowest-loss decay is ours; the
        authors' code takes the accuracy-best one of that epoch.
    """
    scores = {record.epoch: _scores(record, selection) for record in records}
    _check_holdout(list(scores.values()))
    names = (BASELINE,) if rule == "sgd" else tuple(averages)
    value: Callable[[Score], float] = _loss if rule == "loss" else _accuracy
    candidates = [(e, name, value(of_e[name])) for e, of_e in scores.items() for name in names]
    epoch, average, _ = max(candidates, key=lambda candidate: (candidate[2], -candidate[0]))
    if rule == "loss" and "loss-decay" in paper_code:
        average = max(names, key=lambda name: scores[epoch][name].accuracy)
    return Stop(rule=rule, epoch=epoch, average=average)


def swad_interval(
    records: Sequence[EpochRecord],
    *,
    patience: int = 3,
    tolerance: int = 6,
    ratio: float = 1.3,
) -> tuple[int, int]:
    """First and last epoch that SWAD averages, by SGD's hold-out loss L_e.

        first:      the earliest e with L_e ≤ L_e, …, L_{e+patience−1}
        threshold:  ratio · mean(L_e, …, L_{e+patience−1})
        last:       e' − tolerance for the earliest e' > e + patience − 1 whose last `tolerance`
                    losses are all above the threshold; the end where there is none

    Args:
        records: All epochs of a run, each with hold-out scores.
        patience: Epochs without improvement that show convergence (their N_s), ≥ 1.
        tolerance: Epochs that show overfitting (their N_e), ≥ 1.
        ratio: Their r, > 1.

    Returns:
        Epochs from 1, both of them in the average, with all weights in between. The last epoch
        alone for a loss that falls to the end.

    Raises:
        DataError: if there is no record, or one without hold-out scores: nothing else may choose.

    Source:
        Cha et al. 2021, "SWAD: Domain generalization by seeking flat minima", algorithm 1 with
        its constants. Their iterations between two evaluations are our epochs. What to average
        where nothing converges is ours.
    """
    _check_holdout([record.holdout for record in records])
    losses = [record.holdout[BASELINE].loss for record in records]
    for first in range(len(losses) - patience + 1):
        ahead = losses[first : first + patience]
        if ahead[0] == min(ahead):
            threshold = ratio * sum(ahead) / patience
            for now in range(first + patience, len(losses)):
                if min(losses[max(0, now - tolerance + 1) : now + 1]) > threshold:
                    return first + 1, now - tolerance + 1
            return first + 1, len(losses)
    return len(losses), len(losses)


def choose_learning_rate(
    runs: Mapping[float, Mapping[int, Sequence[EpochRecord] | Lost]],
) -> float:
    """The learning rate with the best SGD: the baseline gets its best.

        argmax_lr  mean over seeds of  max_e accuracy(SGD, e)

    Args:
        runs: Learning rate → seed → epochs, or what became of a run that has none to choose
            from. A learning rate with such a run is out.

    Raises:
        DataError: if every learning rate is out; what to do depends on why.
    """
    means = {
        learning_rate: sum(_best_baseline(records) for records in ended) / len(ended)
        for learning_rate, by_seed in sorted(runs.items())
        if (ended := _ended(by_seed))
    }
    if not means:
        raise DataError(_all_lost(runs))
    return max(means, key=lambda learning_rate: means[learning_rate])


def _ended(
    by_seed: Mapping[int, Sequence[EpochRecord] | Lost],
) -> list[Sequence[EpochRecord]] | None:
    """The records of all seeds; None where one is lost."""
    found = [records for records in by_seed.values() if not isinstance(records, str)]
    return found if len(found) == len(by_seed) else None


def _all_lost(runs: Mapping[float, Mapping[int, Sequence[EpochRecord] | Lost]]) -> str:
    failed = any("failed" in by_seed.values() for by_seed in runs.values())
    diverged = any("diverged" in by_seed.values() for by_seed in runs.values())
    how = " or ".join(word for word, found in (("failed", failed), ("diverged", diverged)) if found)
    again = "Fix what made the runs fail and give the same command again."
    return (
        f"every learning rate of {sorted(runs)} has a run that {how}; expected one where all "
        f"seeds end. {again if failed else 'Search smaller learning rates.'}"
    )


def _best_baseline(records: Sequence[EpochRecord]) -> float:
    stop = choose_stop(records, rule="sgd", averages=())
    return next(r.holdout[BASELINE].accuracy for r in records if r.epoch == stop.epoch)


def _scores(record: EpochRecord, selection: Selection) -> Mapping[str, Score]:
    return record.holdout_bn if selection == "bn_safe" else record.holdout


def _check_holdout(scores: Sequence[Mapping[str, Score]]) -> None:
    if not all(scores) or not scores:
        raise DataError(
            "the records hold no hold-out scores; expected them for every epoch. "
            "Choose on a run that keeps a hold-out."
        )


def _accuracy(score: Score) -> float:
    return score.accuracy


def _loss(score: Score) -> float:
    return -score.loss
