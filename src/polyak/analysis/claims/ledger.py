"""The ledger of a study: every claim with its evidence, and a verdict."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polyak.analysis.claims.catalogue import CLAIMS
from polyak.analysis.claims.claim import Claim
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.verdicts import (
    LEVEL,
    Finding,
    Verdict,
    Weighed,
    benjamini_hochberg,
    holm,
    one_refuted,
    shown_together,
    verdict,
    weigh,
)

VERDICTS: tuple[Verdict, ...] = ("reproduced", "not reproduced", "underpowered", "not run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A claim as a study's runs bear it out."""

    claim: Claim
    verdict: Verdict
    findings: tuple[tuple[Finding, Weighed], ...] = ()
    shown: float | None = None
    """p of the claim's being false, all findings together; None where it cannot be tested."""

    shown_corrected: float | None = None
    """The same after Benjamini and Hochberg, over the claims of the page."""

    refuted: float | None = None
    """p of no finding's being refuted."""

    refuted_corrected: float | None = None
    survives_holm: bool = False
    """Whether the verdict holds after the stricter correction, too."""


def ledger(rows: Sequence[RowEvidence], claims: Iterable[Claim] = CLAIMS) -> list[Entry]:
    """Judge every claim by one rule.

    Findings of a claim have to be shown all (the largest p counts) and are refuted by one (the
    smallest counts, times their number). Showing and refuting are corrected over the page's
    claims by Benjamini and Hochberg's procedure, each at half of 5 %: so of the claims called
    reproduced at most 2.5 % are expected to be so by chance, and of those called not reproduced
    as many.

    Args:
        rows: Evidence of the study's rows.
        claims: What to judge.
    """
    weighed = {claim: [(found, weigh(found)) for found in claim.findings(rows)] for claim in claims}
    tests = {claim: [w for _, w in found] for claim, found in weighed.items()}
    shown = {claim: p for claim, t in tests.items() if (p := shown_together(t)) is not None}
    refuted = {claim: p for claim, t in tests.items() if (p := one_refuted(t)) is not None}
    by_bh = [_by_claim(ps, benjamini_hochberg(list(ps.values()))) for ps in (shown, refuted)]
    by_holm = [_by_claim(ps, holm(list(ps.values()))) for ps in (shown, refuted)]
    return [
        Entry(
            claim=claim,
            verdict=verdict(*(qs.get(claim) for qs in by_bh)) if found else "not run",
            findings=tuple(found),
            shown=shown.get(claim),
            shown_corrected=by_bh[0].get(claim),
            refuted=refuted.get(claim),
            refuted_corrected=by_bh[1].get(claim),
            survives_holm=verdict(*(qs.get(claim) for qs in by_bh))
            == verdict(*(qs.get(claim) for qs in by_holm)),
        )
        for claim, found in weighed.items()
    ]


def deciding(entry: Entry) -> tuple[Finding, Weighed] | None:
    """The finding on which the verdict hangs: the most refuted, else the least shown."""
    if not entry.findings:
        return None
    if entry.verdict == "not reproduced":
        return min(entry.findings, key=lambda f: 1.0 if f[1].refuted is None else f[1].refuted)
    return max(entry.findings, key=lambda f: 1.0 if f[1].shown is None else f[1].shown)


def alone(weighed: Weighed) -> Verdict:
    """What one finding says, uncorrected."""
    return verdict(weighed.shown, weighed.refuted)


def small(entry: Entry) -> bool:
    """Whether a reproduced effect is shown to be smaller than the smallest of interest."""
    return entry.verdict == "reproduced" and any(
        finding.refuted_at != finding.bound
        and weighed.refuted is not None
        and weighed.refuted <= LEVEL / 2
        for finding, weighed in entry.findings
    )


def counts(verdicts: Iterable[Verdict]) -> str:
    """One line for the terminal.

    Example:
        >>> counts(["reproduced", "not run", "reproduced"])
        '2 reproduced, 0 not reproduced, 0 underpowered, 1 not run'
    """
    found = list(verdicts)
    return ", ".join(f"{found.count(word)} {word}" for word in VERDICTS)


def _by_claim(ps: dict[Claim, float], qs: Sequence[float]) -> dict[Claim, float]:
    return dict(zip(ps, qs, strict=True))
