"""Remarks beside figures and tables: averages that coincide, and churn at equal accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from polyak.analysis.curves import Coincidence, coinciding
from polyak.analysis.results import Phase, Result, values
from polyak.records.runs import RunFolder, Score, run_folder
from polyak.records.studies import RowRecord
from polyak.report.names import arm_name, average_name
from polyak.report.numbers import joined, number
from polyak.report.tables.table import Measure


def overlaps(out: Path, row: RowRecord) -> list[str]:
    """For search and refit, which averages have equal scores from the first epoch on.

    All runs of the search are looked at by their hold-out scores, refits by their test monitor.
    """
    searches = [run_id for runs in row.search.values() for run_id in runs.values()]
    refits = list(row.refit.values())
    held = [_holdout(run_folder(out, run_id)) for run_id in searches]
    tested = [_monitor(run_folder(out, run_id), "test") for run_id in refits]
    return [
        *_sentences(held, row.averages, "In the search"),
        *_sentences(tested, row.averages, "In the refit"),
    ]


def _holdout(folder: RunFolder) -> list[Mapping[str, Score]]:
    return [record.holdout for record in folder.epochs()]


def _monitor(folder: RunFolder, name: str) -> list[Mapping[str, Score]]:
    return [record.scores for record in folder.monitors() if record.monitor == name]


def _sentences(
    runs: Sequence[Sequence[Mapping[str, Score]]], averages: Sequence[str], where: str
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


SPLIT = tuple(
    Measure(metric=metric, heading=heading, unit="%", scale=100, digits=1)
    for metric, heading in (
        ("both_right", "both right"),
        ("both_wrong", "both wrong"),
        ("flipped", "flipped"),
        ("differently_wrong", "differently wrong"),
        ("churn", "churn"),
    )
)
"""Churn is the sum of flipped and differently wrong."""

_AVERAGES = ("ema_acc", "ema_acc_bn", "ema_loss", "ema_loss_bn")


def matched(row: RowRecord, results: Sequence[Result]) -> list[str]:
    """A sentence that compares SGD's churn with that of the average that is most nearly as
    accurate, matched by the search's hold-out; empty where there is no refit or no second seed.
    """

    def mean(arm: str, metric: str, phase: Phase = "refit") -> float | None:
        found = values(results, row=row.label, arm=arm, metric=metric, phase=phase)
        return fmean(found.values()) if found else None

    accuracies = {arm: mean(arm, "holdout_accuracy", "search") for arm in ("sgd", *_AVERAGES)}
    known = {arm: value for arm, value in accuracies.items() if value is not None}
    if "sgd" not in known or len(known) < 2 or mean("sgd", "churn") is None:
        return []
    twin = min(known.keys() - {"sgd"}, key=lambda arm: (abs(known[arm] - known["sgd"]), arm))
    told = []
    for arm in ("sgd", twin):
        parts = [mean(arm, m) for m in ("accuracy", "churn", "flipped", "differently_wrong")]
        if None in parts:
            return []
        accuracy, churn, flipped, wrong = (number(100 * (p or 0.0), 1) for p in parts)
        told.append(
            f"{arm_name(arm)} has {accuracy} % test accuracy and {churn} % churn, of which "
            f"{flipped} flip and {wrong} are differently wrong"
        )
    held = [number(100 * known[arm], 1) for arm in ("sgd", twin)]
    return [
        f"{row.label}, matched in accuracy: of the averages {arm_name(twin)} is nearest to SGD on "
        f"the search’s hold-out ({held[1]} % and {held[0]} %). {'; '.join(told)}."
    ]
