"""Mistakes in the claims that a study declares, each by its field, before anything runs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from polyak.errors import unknown
from polyak.records.claims import (
    BEST_OF_SGD,
    OF_EPOCHS,
    OF_PAIRS,
    OF_THE_BANK,
    WITH_TEMPERATURE,
    Claim,
    Comparison,
)
from polyak.records.vocabulary import (
    BASELINE,
    EMA_ACC,
    EMA_LOSS,
    PROBED_ARMS,
    SGD_STOPPED,
    Phase,
)

STOPPED_ARMS = (SGD_STOPPED, EMA_ACC, EMA_LOSS)
"""An arm for each rule that chooses an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTerms:
    """What a claim can be about in a row."""

    seeds: Sequence[int]
    arms: Sequence[str]
    averages: Sequence[str] | None
    """Of the bank; None where data that is not looked at yet decides what they are called."""

    parts: Mapping[Phase, Sequence[str]]
    """By phase of its runs, what is scored at each epoch."""

    targets: Sequence[str]
    """Of its linear probes."""

    wrong_labels: bool


def claim_faults(claims: Sequence[Claim], rows: Mapping[str, RowTerms]) -> list[str]:
    """All faults of all claims.

    Args:
        claims: With right types.
        rows: By label.
    """
    ids = [claim.id for claim in claims]
    found = [
        f"two claims are called {name!r}; expected different names"
        for name in dict.fromkeys(ids)
        if ids.count(name) > 1
    ]
    for claim in claims:
        found += [f"claim {claim.id}: {fault}" for fault in _of_claim(claim, rows)]
    # What both numbers of a comparison share is found once for each.
    return list(dict.fromkeys(found))


def _of_claim(claim: Claim, rows: Mapping[str, RowTerms]) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", claim.id):
        yield f"id is {claim.id!r}; expected small letters, digits and hyphens"
    if not claim.sentence.strip():
        yield "sentence is empty; expected what is claimed, in words"
    if not claim.comparisons:
        yield "comparisons is (); expected at least one"
    if len(set(claim.comparisons)) != len(claim.comparisons):
        yield "comparisons has one twice; expected different ones"
    yield from _of_seeds(claim, rows)
    for number, comparison in enumerate(claim.comparisons, start=1):
        place = f"comparison {number}: " if len(claim.comparisons) > 1 else ""
        yield from (f"{place}{fault}" for fault in _of_comparison(comparison, rows))


def _of_seeds(claim: Claim, rows: Mapping[str, RowTerms]) -> Iterator[str]:
    about = [label for each in claim.comparisons for label in each.rows if label in rows]
    for label in dict.fromkeys(about):
        strange = [seed for seed in claim.seeds if seed not in rows[label].seeds]
        if strange:
            yield (
                f"seeds has {', '.join(map(str, strange))}, which row {label!r} does not run; "
                f"expected some of {', '.join(map(str, rows[label].seeds))}"
            )
    if len(set(claim.seeds)) != len(claim.seeds):
        yield f"seeds is {claim.seeds!r}; expected nothing twice"
    common = seeds_of(claim, {label: rows[label].seeds for label in about})
    least = 3 if any(each.metric in OF_PAIRS for each in claim.comparisons) else 2
    if about and len(common) < least:
        why = "for numbers about pairs of runs" if least == 3 else "to tell chance from effect"
        yield f"seeds are {common!r}; expected at least {least} that all its rows run, {why}"


def seeds_of(claim: Claim, by_row: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """The seeds that a claim is judged by: its own, or all that each of its rows runs."""
    if claim.seeds:
        return claim.seeds
    about = [by_row[r] for each in claim.comparisons for r in each.rows if r in by_row]
    return tuple(seed for seed in about[0] if all(seed in row for row in about)) if about else ()


def _of_comparison(comparison: Comparison, rows: Mapping[str, RowTerms]) -> Iterator[str]:
    yield from _of_bound(comparison)
    yield from _of_curve(comparison)
    named = {"row": comparison.row, "against_row": comparison.against_row or comparison.row}
    strange = {name: label for name, label in named.items() if label not in rows}
    if strange:
        yield from (unknown(*found, rows).rstrip(".") for found in list(strange.items())[:1])
        return
    yield from _of_number(comparison, rows[comparison.row], "")
    if comparison.against is None:
        yield from _without_use(comparison)
        return
    yield from _of_number(comparison, rows[named["against_row"]], "against")
    other = (comparison.against_row, comparison.against_phase, comparison.against_part)
    if comparison.against == comparison.arm and other == (None, None, None):
        yield f"against is {comparison.against!r}, the arm itself; expected another"


def _of_bound(comparison: Comparison) -> Iterator[str]:
    unit, side, bound = comparison.natural_unit, comparison.side, comparison.bound
    if comparison.unit != unit:
        what = "alone" if comparison.against is None else "against another"
        yield f"unit is {comparison.unit!r}; expected {unit!r} for {comparison.metric} {what}"
    if side == "within" and bound <= 0:
        yield f"bound is {bound!r} with side 'within'; expected > 0"
    if side == "within" and (comparison.every_seed or comparison.against == BEST_OF_SGD):
        yield "side is 'within' for every seed or the best of SGD; expected 'above' or 'below'"
    refuted = comparison.refuted_at
    if refuted is None:
        return
    if side == "within":
        yield f"refuted_at is {refuted!r} with side 'within'; expected None, which is the bound"
    elif (refuted - bound) * (1 if side == "above" else -1) < 0:
        yield f"refuted_at is {refuted!r}; expected the bound, {bound!r}, or beyond it"


def _of_curve(comparison: Comparison) -> Iterator[str]:
    at, until = comparison.at, comparison.until
    if at is None:
        given = [
            name for name in ("until", "against_part") if getattr(comparison, name) is not None
        ]
        given += ["part"] * (comparison.part != "holdout")
        yield from (
            f"{name} is given without at; expected at, a share of the run" for name in given
        )
        return
    if not 0 < at <= 1:
        yield f"at is {at!r}; expected a share of the run, 0 < at <= 1"
    if until is not None and not at < until <= 1:
        yield f"until is {until!r}; expected at < until <= 1"
    if comparison.metric not in OF_EPOCHS:
        yield f"metric is {comparison.metric!r} with at; expected one of {', '.join(OF_EPOCHS)}"
    if comparison.target != "test":
        yield f"target is {comparison.target!r} with at; expected part, which curves have"


def _of_number(comparison: Comparison, row: RowTerms, which: str) -> Iterator[str]:
    """Faults of one of the two numbers that a comparison is about; `which` is "" or "against"."""
    arm = comparison.against if which else comparison.arm
    phase = (comparison.against_phase if which else None) or comparison.phase
    names = {name: f"{which}_{name}".lstrip("_") for name in ("phase", "part")}
    phases = [*row.parts, *(["transfer"] if row.targets else [])]
    if phase not in phases:
        if which and comparison.rows == (comparison.row,) and comparison.against_phase is None:
            return  # It is the other number's, and was said.
        yield f"{names['phase']} is {phase!r}; expected what the row runs: {', '.join(phases)}"
        return
    choices = _arms(comparison, row, phase, bool(which))
    if choices is not None and arm not in choices:
        yield unknown(which or "arm", str(arm), choices).rstrip(".")
    if comparison.at is not None:
        part = (comparison.against_part if which else None) or comparison.part
        if part not in row.parts.get(phase, ()):
            there = ", ".join(row.parts.get(phase, ())) or "none"
            yield f"{names['part']} is {part!r}; expected what phase {phase} records: {there}"
        return
    yield from _of_metric(comparison, row, phase)


def _arms(
    comparison: Comparison, row: RowTerms, phase: Phase, against: bool
) -> Sequence[str] | None:
    """What can be compared; None where it is not known yet."""
    if comparison.at is not None:
        return None if row.averages is None else (BASELINE, *OF_THE_BANK, *row.averages)
    if comparison.metric == "epoch":
        return STOPPED_ARMS
    if phase == "transfer":
        return PROBED_ARMS
    best = (BEST_OF_SGD,) if against and phase in ("search", "refit") else ()
    return (*row.arms, *best)


def _of_metric(comparison: Comparison, row: RowTerms, phase: Phase) -> Iterator[str]:
    metric, targets = comparison.metric, row.targets if phase == "transfer" else ("test",)
    if comparison.target not in targets:
        yield unknown("target", comparison.target, targets).rstrip(".")
    if phase == "transfer" and metric != "accuracy":
        yield f"metric is {metric!r} of linear probes; expected accuracy"
    if metric == "memorised" and not row.wrong_labels:
        yield "metric is 'memorised' where no label is made wrong; expected noise in the row's data"
    held_out = "holdout" in row.parts.get(phase, ())
    if metric in (*WITH_TEMPERATURE, "holdout_accuracy") and not held_out:
        yield f"metric is {metric!r} in phase {phase!r}; expected 'search', which has a hold-out"
    if metric == "epoch" and phase != "search":
        yield f"phase is {phase!r} for metric epoch; expected 'search', which chooses it"


def _without_use(comparison: Comparison) -> Iterator[str]:
    for name in ("against_row", "against_phase", "against_part"):
        if getattr(comparison, name) is not None:
            yield f"{name} is given without against; expected against, an arm"
