"""The claim ledger of a page: what was claimed, what decides it, and what the runs say."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from polyak.analysis.claims.claim import Claim
from polyak.analysis.claims.evidence import study_evidence
from polyak.analysis.claims.ledger import (
    VERDICTS,
    Entry,
    alone,
    below_smallest_effect,
    counts,
    deciding,
    ledger,
)
from polyak.analysis.claims.verdicts import LEVEL, Hypothesis, HypothesisTest, Verdict
from polyak.analysis.loaded import LoadedStudy
from polyak.errors import FileError
from polyak.files import read_json, write_json
from polyak.records.studies import StudyRecord
from polyak.report.names import ARMS, arm_name, average_name
from polyak.report.numbers import number

FILE = "claims.json"
_SCALES = {
    "points": (100, " points"),
    "nats": (1, " nats"),
    "share": (100, " %"),
    "%": (100, " %"),
    "score": (1, ""),
}
_SMALL_TEST_SET = 1e-4
"""Half an image above this leaves points one decimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HypothesisLine:
    """A hypothesis in words."""

    what: str
    row: str
    claimed: str
    refuted_if: str
    mean: str
    interval: str
    shown: str
    refuted: str
    detectable: str
    seeds: int
    verdict: Verdict
    """Of this hypothesis alone, uncorrected."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """A claim in words."""

    id: str
    sentence: str
    source: str
    test: str
    verdict: Verdict
    kind: str
    """The verdict as a name for the style sheet."""

    figures: str
    """The hypothesis on which the verdict hangs; empty for a claim that was not run."""

    because: tuple[str, ...]
    """What to know about the verdict."""

    own: str
    """What the claim's own comparison says, where it is judged against SGD's best arm."""

    needs: str
    command: str
    hypotheses: tuple[HypothesisLine, ...]
    corrected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPart:
    """The ledger of a page."""

    counts: tuple[tuple[str, str, int], ...]
    """Verdict, its name for the style sheet, how many claims have it."""

    lines: tuple[LedgerLine, ...]
    level: str
    rows: int
    strict: bool
    """Whether any claim is judged against SGD's best arm."""


def judge(study: LoadedStudy) -> list[Entry]:
    """Every claim against the study's files."""
    return ledger(study_evidence(study))


def ledger_part(study: StudyRecord, entries: Sequence[Entry]) -> LedgerPart:
    """The ledger as the page has it."""
    verdicts = [entry.verdict for entry in entries]
    return LedgerPart(
        counts=tuple((word, _kind(word), verdicts.count(word)) for word in VERDICTS),
        lines=tuple(_line(study, entry) for entry in entries),
        level=f"{100 * LEVEL / 2:g} %",
        rows=len(study.rows),
        strict=any(entry.own is not None for entry in entries),
    )


def write_ledger(
    folder: Path, entries: Sequence[Entry], own: Mapping[str, object] | None = None
) -> None:
    """Write claims.json beside a page; with the study's own claims, if it has some."""
    ledger = {"level": LEVEL, "claims": [entry_record(entry) for entry in entries]}
    write_json(folder / FILE, ledger if own is None else {**ledger, "own": own})


def claims_line(folder: Path) -> str:
    """One line about the claims of a report, from its folder.

    Raises:
        FileError: if claims.json is missing or damaged.
    """
    return f"claims: {counts(list(claim_verdicts(folder).values()))}"


def claim_verdicts(folder: Path) -> dict[str, Verdict]:
    """The verdict on each claim of a report, by the claim's id, from its folder.

    Raises:
        FileError: if claims.json is missing or damaged.
    """
    path = folder / FILE
    try:
        return {claim["id"]: claim["verdict"] for claim in read_json(path)["claims"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); expected the ledger of a report. "
            "Write the report again."
        ) from error


def _line(study: StudyRecord, entry: Entry) -> LedgerLine:
    claim, hangs_on = entry.claim, deciding(entry)
    return LedgerLine(
        id=claim.id,
        sentence=claim.sentence,
        source=claim.source,
        test=claim.test,
        verdict=entry.verdict,
        kind=_kind(entry.verdict),
        figures="" if hangs_on is None else _figures(*hangs_on),
        because=tuple(_because(entry)),
        own=_own(entry),
        needs=claim.needs,
        command=command_for(claim, study),
        hypotheses=tuple(_hypothesis_line(*found) for found in entry.tested),
        corrected=_corrected(entry),
    )


def command_for(claim: Claim, study: StudyRecord) -> str:
    """What to type for the runs that a claim needs: at the study's own scale, else the small.

    Example:
        >>> from polyak.analysis.claims.catalogue import CLAIMS
        >>> (claim,) = (claim for claim in CLAIMS if claim.id == "longest-window")
        >>> tiny = StudyRecord(name="mine", title="", command="", rows=(), scale="tiny")
        >>> command_for(claim, tiny)
        'polyak study figure1 --scale tiny'
    """
    if not claim.preset:
        return study.command
    scale = study.scale or "small"
    # One with other switches has a longer name, and not all the runs of the plain one.
    plain = study.preset == claim.preset and study.name == f"{claim.preset}-{scale}"
    if plain and claim.scale in (None, scale):
        return study.command
    return f"polyak study {claim.preset} --scale {claim.scale or scale}"


def _figures(hypothesis: Hypothesis, test: HypothesisTest) -> str:
    """The mean with its interval."""
    mean = _shown(test.mean, hypothesis)
    if test.low is None:
        return mean
    return f"{mean} ({_interval(hypothesis, test)})"


def _because(entry: Entry) -> list[str]:
    weakest = deciding(entry)
    if weakest is None:
        return []
    found = []
    hypothesis, test = weakest
    if len(entry.tested) > 1:
        found.append(words(hypothesis.what) + (f"; {hypothesis.row}" if _rows(entry) > 1 else ""))
    if test.n == 1:
        found.append("one seed: nothing tells chance from effect")
    elif test.sd is None:
        found.append("no spread between seeds to judge by")
    elif entry.verdict == "underpowered" and not hypothesis.every_seed:
        detectable = _shown(test.detectable or 0.0, hypothesis)
        found.append(f"detectable by {test.n} such seeds: {detectable} beyond the bound")
    if below_smallest_effect(entry):
        found.append("there, but smaller than the smallest effect of interest")
    return found


def _own(entry: Entry) -> str:
    """The comparison that the claim itself makes, with its verdict."""
    hangs_on = None if entry.own is None else deciding(entry.own)
    if entry.own is None or hangs_on is None:
        return ""
    figures = _figures(*hangs_on)
    return f"its own comparison, {words(hangs_on[0].what)}: {figures}, {entry.own.verdict}"


def words(what: str) -> str:
    """Arms and averages in a hypothesis as tables call them."""
    return re.sub(r"\b(?:[a-z]+_[a-z0-9._]*[a-z0-9]|ema|sgd|swa)\b", _called, what)


def _called(found: re.Match[str]) -> str:
    return average_name(found[0]) if found[0] not in ARMS else arm_name(found[0])


def _rows(entry: Entry) -> int:
    return len({hypothesis.row for hypothesis, _ in entry.tested})


def _hypothesis_line(hypothesis: Hypothesis, test: HypothesisTest) -> HypothesisLine:
    beyond, short = (">", "<") if hypothesis.side == "above" else ("<", ">")
    return HypothesisLine(
        what=words(hypothesis.what),
        row=hypothesis.row,
        claimed=f"{beyond} {_shown(hypothesis.bound, hypothesis)}",
        refuted_if="–"
        if hypothesis.refuted_at is None
        else f"{short} {_plain(hypothesis.refuted_at, hypothesis)}",
        mean=_plain(test.mean, hypothesis),
        interval="–" if test.low is None else _interval(hypothesis, test),
        shown=_p(test.p_supported),
        refuted=_p(test.p_refuted),
        detectable="–"
        if test.detectable is None or hypothesis.every_seed
        else _plain(test.detectable, hypothesis),
        seeds=test.n,
        verdict=alone(test),
        kind=_kind(alone(test)),
    )


def _corrected(entry: Entry) -> str:
    if entry.p_supported_corrected is None and entry.p_refuted_corrected is None:
        return ""
    text = (
        f"All hypotheses together: p of the claim {_p(entry.p_supported)}, corrected "
        f"{_p(entry.p_supported_corrected)}; p against it {_p(entry.p_refuted)}, corrected "
        f"{_p(entry.p_refuted_corrected)}."
    )
    if entry.verdict in ("reproduced", "not reproduced"):
        text += (
            " Holds after Holm’s stricter correction, too."
            if entry.survives_holm
            else " Does not hold after Holm’s stricter correction."
        )
    return text


def _interval(hypothesis: Hypothesis, test: HypothesisTest) -> str:
    return " to ".join(_plain(end or 0.0, hypothesis) for end in (test.low, test.high))


def _shown(value: float, hypothesis: Hypothesis) -> str:
    return _plain(value, hypothesis) + _SCALES[hypothesis.unit][1]


def _plain(value: float, hypothesis: Hypothesis) -> str:
    return number(_SCALES[hypothesis.unit][0] * value, _digits(hypothesis))


def _digits(hypothesis: Hypothesis) -> int:
    if hypothesis.unit in ("nats", "score"):
        return 3
    if hypothesis.unit == "share":
        return 0
    return 1 if hypothesis.unit == "%" or hypothesis.resolution > _SMALL_TEST_SET else 2


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "<0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _kind(verdict: str) -> str:
    return verdict.replace(" ", "-")


def entry_record(entry: Entry) -> dict[str, object]:
    """A claim in claims.json, whose keys are those of its first version."""
    return {
        "id": entry.claim.id,
        "sentence": entry.claim.sentence,
        "verdict": entry.verdict,
        "p_shown": entry.p_supported,
        "p_shown_corrected": entry.p_supported_corrected,
        "p_refuted": entry.p_refuted,
        "p_refuted_corrected": entry.p_refuted_corrected,
        "findings": [_tested(hypothesis, test) for hypothesis, test in entry.tested],
    } | ({} if entry.own is None else {"own_comparison": _own_record(entry.own)})


def _own_record(entry: Entry) -> dict[str, object]:
    """The claim by its own comparison, which the first of its findings are."""
    record = entry_record(entry)
    kept = ("verdict", "p_shown", "p_shown_corrected", "p_refuted", "p_refuted_corrected")
    return {key: record[key] for key in kept} | {"findings": len(entry.tested)}


def _tested(hypothesis: Hypothesis, test: HypothesisTest) -> dict[str, object]:
    return {
        **asdict(hypothesis),
        "n": test.n,
        "mean": test.mean,
        "low": test.low,
        "high": test.high,
        "shown": test.p_supported,
        "refuted": test.p_refuted,
        "sd": test.sd,
        "detectable": test.detectable,
    }
