"""The claim ledger of a page: what was claimed, what decides it, and what the runs say."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from polyak.analysis.claims.claim import Claim
from polyak.analysis.claims.evidence import RowEvidence, row_evidence
from polyak.analysis.claims.ledger import VERDICTS, Entry, alone, counts, deciding, ledger, small
from polyak.analysis.claims.verdicts import LEVEL, Finding, Verdict, Weighed
from polyak.analysis.results import Result
from polyak.errors import FileError
from polyak.files import write_json
from polyak.records.studies import StudyRecord
from polyak.report.names import ARMS, arm_name, average_name
from polyak.report.numbers import number
from polyak.report.overhead import timings_of

FILE = "claims.json"
_SCALES = {"points": (100, " points"), "nats": (1, " nats"), "share": (100, " %"), "%": (100, " %")}
_SMALL_TEST_SET = 1e-4
"""Half an image above this leaves points one decimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingLine:
    """A finding in words."""

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
    """Of this finding alone, uncorrected."""

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
    """The finding on which the verdict hangs; empty for a claim that was not run."""

    because: tuple[str, ...]
    """What to know about the verdict."""

    needs: str
    command: str
    findings: tuple[FindingLine, ...]
    corrected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPart:
    """The ledger of a page."""

    counts: tuple[tuple[str, str, int], ...]
    """Verdict, its name for the style sheet, how many claims have it."""

    lines: tuple[LedgerLine, ...]
    level: str
    rows: int


def judge(out: Path, study: StudyRecord, results: Sequence[Result]) -> list[Entry]:
    """Every claim against the study's files."""
    measured = timings_of(out, study)
    rows = [row_evidence(out, row, results) for row in study.rows]
    if study.measurement is not None and measured is not None:
        label = study.measurement.label
        rows.append(RowEvidence(label=label, budget=0, averages=(), timings=measured))
    return ledger(rows)


def ledger_part(study: StudyRecord, entries: Sequence[Entry]) -> LedgerPart:
    """The ledger as the page has it."""
    verdicts = [entry.verdict for entry in entries]
    return LedgerPart(
        counts=tuple((word, _kind(word), verdicts.count(word)) for word in VERDICTS),
        lines=tuple(_line(study, entry) for entry in entries),
        level=f"{100 * LEVEL / 2:g} %",
        rows=len(study.rows),
    )


def write_ledger(folder: Path, entries: Sequence[Entry]) -> None:
    """Write claims.json beside a page."""
    write_json(folder / FILE, {"level": LEVEL, "claims": [_record(entry) for entry in entries]})


def claims_line(folder: Path) -> str:
    """One line about the claims of a report, from its folder.

    Raises:
        FileError: if claims.json is missing or damaged.
    """
    path = folder / FILE
    try:
        verdicts = [claim["verdict"] for claim in json.loads(path.read_text())["claims"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); expected the ledger of a report. "
            "Write the report again."
        ) from error
    return f"claims: {counts(verdicts)}"


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
        needs=claim.needs,
        command=command_for(claim, study),
        findings=tuple(_finding_line(*found) for found in entry.findings),
        corrected=_corrected(entry),
    )


def command_for(claim: Claim, study: StudyRecord) -> str:
    """What to type for the runs that a claim needs: at the study's own scale, else the small.

    Example:
        >>> from polyak.analysis.claims.catalogue import CLAIMS
        >>> command_for(CLAIMS[6], StudyRecord(name="table1-tiny", title="", command="", rows=()))
        'polyak study figure1 --scale tiny'
    """
    found = re.search(r"-(paper|small|tiny)(-controls)?$", study.name)
    own = found[1] if found else "small"
    if study.name == f"{claim.preset}-{own}" and claim.scale in (None, own):
        return study.command
    return f"polyak study {claim.preset} --scale {claim.scale or own}"


def _figures(finding: Finding, weighed: Weighed) -> str:
    """The mean with its interval."""
    mean = _shown(weighed.mean, finding)
    if weighed.low is None:
        return mean
    return f"{mean} ({_interval(finding, weighed)})"


def _because(entry: Entry) -> list[str]:
    weakest = deciding(entry)
    if weakest is None:
        return []
    found = []
    finding, weighed = weakest
    if len(entry.findings) > 1:
        found.append(_words(finding.what) + (f"; {finding.row}" if _rows(entry) > 1 else ""))
    if weighed.n == 1:
        found.append("one seed: nothing tells chance from effect")
    elif weighed.sd is None:
        found.append("no spread between seeds to judge by")
    elif entry.verdict == "underpowered" and not finding.every_seed:
        detectable = _shown(weighed.detectable or 0.0, finding)
        found.append(f"detectable by {weighed.n} such seeds: {detectable} beyond the bound")
    if small(entry):
        found.append("there, but smaller than the smallest effect of interest")
    return found


def _words(what: str) -> str:
    """Arms and averages in a finding as tables call them."""
    return re.sub(r"\b(?:ema|sgd|swa)(?:_[a-z0-9._]*[a-z0-9])?", _called, what)


def _called(found: re.Match[str]) -> str:
    return average_name(found[0]) if found[0] not in ARMS else arm_name(found[0])


def _rows(entry: Entry) -> int:
    return len({finding.row for finding, _ in entry.findings})


def _finding_line(finding: Finding, weighed: Weighed) -> FindingLine:
    beyond, short = (">", "<") if finding.side == "above" else ("<", ">")
    return FindingLine(
        what=_words(finding.what),
        row=finding.row,
        claimed=f"{beyond} {_shown(finding.bound, finding)}",
        refuted_if="–"
        if finding.refuted_at is None
        else f"{short} {_plain(finding.refuted_at, finding)}",
        mean=_plain(weighed.mean, finding),
        interval="–" if weighed.low is None else _interval(finding, weighed),
        shown=_p(weighed.shown),
        refuted=_p(weighed.refuted),
        detectable="–"
        if weighed.detectable is None or finding.every_seed
        else _plain(weighed.detectable, finding),
        seeds=weighed.n,
        verdict=alone(weighed),
        kind=_kind(alone(weighed)),
    )


def _corrected(entry: Entry) -> str:
    if entry.shown_corrected is None and entry.refuted_corrected is None:
        return ""
    text = (
        f"All findings together: p of the claim {_p(entry.shown)}, corrected "
        f"{_p(entry.shown_corrected)}; p against it {_p(entry.refuted)}, corrected "
        f"{_p(entry.refuted_corrected)}."
    )
    if entry.verdict in ("reproduced", "not reproduced"):
        text += (
            " Holds after Holm’s stricter correction, too."
            if entry.survives_holm
            else " Does not hold after Holm’s stricter correction."
        )
    return text


def _interval(finding: Finding, weighed: Weighed) -> str:
    return " to ".join(_plain(end or 0.0, finding) for end in (weighed.low, weighed.high))


def _shown(value: float, finding: Finding) -> str:
    return _plain(value, finding) + _SCALES[finding.unit][1]


def _plain(value: float, finding: Finding) -> str:
    return number(_SCALES[finding.unit][0] * value, _digits(finding))


def _digits(finding: Finding) -> int:
    if finding.unit == "nats":
        return 3
    if finding.unit == "share":
        return 0
    return 1 if finding.unit == "%" or finding.resolution > _SMALL_TEST_SET else 2


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "<0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _kind(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _record(entry: Entry) -> dict[str, object]:
    return {
        "id": entry.claim.id,
        "sentence": entry.claim.sentence,
        "verdict": entry.verdict,
        "p_shown": entry.shown,
        "p_shown_corrected": entry.shown_corrected,
        "p_refuted": entry.refuted,
        "p_refuted_corrected": entry.refuted_corrected,
        "findings": [
            {**asdict(finding), **asdict(weighed), "detectable": weighed.detectable}
            for finding, weighed in entry.findings
        ],
    }
