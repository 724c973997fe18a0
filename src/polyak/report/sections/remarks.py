"""Remarks beside figures and tables: averages that coincide, and churn at equal accuracy."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from polyak.analysis.curves import Coincidence, coinciding
from polyak.analysis.loaded import LoadedRow, Scores
from polyak.records.vocabulary import (
    BASELINE,
    EMA_ACC,
    EMA_ACC_BN,
    EMA_LOSS,
    EMA_LOSS_BN,
    Phase,
)
from polyak.report.names import arm_name, average_name
from polyak.report.numbers import joined, number

_AVERAGES = (EMA_ACC, EMA_ACC_BN, EMA_LOSS, EMA_LOSS_BN)


def overlaps(row: LoadedRow) -> list[str]:
    """For search and refit, which averages have equal scores from the first epoch on.

    All runs of the search are looked at by their hold-out scores, refits by their test monitor.
    """
    searches = [run.log for runs in row.searched().values() for run in runs.values()]
    held_out = [[record.holdout for record in log.epochs] for log in searches]
    tested = [
        [record.scores for record in run.log.monitors if record.monitor == "test"]
        for run in row.of("refit").values()
    ]
    averages = row.record.averages
    return [
        *_sentences(held_out, averages, "In the search"),
        *_sentences(tested, averages, "In the refit"),
    ]


def _sentences(
    runs: Sequence[Sequence[Scores]], averages: Sequence[str], where: str
) -> Iterator[str]:
    longest: dict[tuple[str, str], Coincidence] = {}
    for scores in runs:
        for found in coinciding(scores, averages):
            pair = found.first, found.second
            if pair not in longest or found.epochs > longest[pair].epochs:
                longest[pair] = found
    clauses: list[str] = []
    before: set[str] = set()
    for names, epochs, whole in _groups(list(longest.values()), averages):
        inner = before and before < set(names)
        shown = joined([average_name(n) for n in names if not (inner and n in before)])
        until = f"until epoch {epochs}" if epochs > 1 else "in epoch 1"
        when = f"in all {epochs} epochs of a run" if whole else until
        clauses.append(f"{shown} too {when}" if inner else f"{shown} have equal scores {when}")
        before = set(names)
    if clauses:
        yield f"{where}, {'; '.join(clauses)}."


def _groups(
    found: Sequence[Coincidence], averages: Sequence[str]
) -> list[tuple[list[str], int, bool]]:
    """Groups of averages that are linked by pairs, with the epochs that all of them share."""
    groups: list[tuple[list[str], int, bool]] = []
    for epochs in sorted({c.epochs for c in found}, reverse=True):
        linked = [c for c in found if c.epochs >= epochs]
        for names in _components(linked, averages):
            if all(names != seen for seen, _, _ in groups):
                inside = [c for c in linked if c.first in names]
                groups.append((names, epochs, all(c.whole_run for c in inside)))
    return groups


def _components(pairs: Sequence[Coincidence], averages: Sequence[str]) -> list[list[str]]:
    part = {name: {name} for name in averages}
    for pair in pairs:
        merged = part[pair.first] | part[pair.second]
        for name in merged:
            part[name] = merged
    unique = {frozenset(names) for names in part.values() if len(names) > 1}
    return [[name for name in averages if name in names] for names in sorted(unique, key=sorted)]


def matched(row: LoadedRow) -> list[str]:
    """A sentence that compares SGD's churn with that of the average that is most nearly as
    accurate, matched by the search's hold-out; empty where there is no refit or no second seed.
    """

    def mean(arm: str, metric: str, phase: Phase = "refit") -> float | None:
        found = row.results.by_seed(phase=phase, arm=arm, metric=metric)
        return fmean(found.values()) if found else None

    accuracies = {arm: mean(arm, "holdout_accuracy", "search") for arm in (BASELINE, *_AVERAGES)}
    known = {arm: value for arm, value in accuracies.items() if value is not None}
    if BASELINE not in known or len(known) < 2 or mean(BASELINE, "churn") is None:
        return []
    sgd = known[BASELINE]
    twin = min(known.keys() - {BASELINE}, key=lambda arm: (abs(known[arm] - sgd), arm))
    told = []
    for arm in (BASELINE, twin):
        parts = [mean(arm, m) for m in ("accuracy", "churn", "flipped", "differently_wrong")]
        if None in parts:
            return []
        accuracy, churn, flipped, wrong = (number(100 * (p or 0.0), 1) for p in parts)
        told.append(
            f"{arm_name(arm)} has {accuracy} % test accuracy and {churn} % churn, of which "
            f"{flipped} flip and {wrong} are differently wrong"
        )
    held = [number(100 * known[arm], 1) for arm in (BASELINE, twin)]
    return [
        f"{row.label}, matched in accuracy: of the averages {arm_name(twin)} is nearest to SGD on "
        f"the search’s hold-out ({held[1]} % and {held[0]} %). {'; '.join(told)}."
    ]
