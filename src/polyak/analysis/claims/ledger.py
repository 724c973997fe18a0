"""The ledger of a study: every claim with its evidence, and a verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from polyak.analysis.claims.catalogue import CLAIMS
from polyak.analysis.claims.claim import Claim
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.verdicts import (
    LEVEL,
    Hypothesis,
    HypothesisTest,
    Verdict,
    assess,
    benjamini_hochberg,
    holm,
    p_all_supported,
    p_any_refuted,
    verdict,
)

VERDICTS: tuple[Verdict, ...] = ("reproduced", "not reproduced", "underpowered", "not run")

Tested = tuple[Hypothesis, HypothesisTest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A claim as a study's runs bear it out."""

    claim: Claim
    verdict: Verdict
    tested: tuple[Tested, ...] = ()
    p_supported: float | None = None
    """p of the claim's being false, all hypotheses together; None where it cannot be tested."""

    p_supported_corrected: float | None = None
    """The same after Benjamini and Hochberg, over the claims of the page."""

    p_refuted: float | None = None
    """p of no hypothesis's being refuted."""

    p_refuted_corrected: float | None = None
    survives_holm: bool = False
    """Whether the verdict holds after the stricter correction, too."""

    own: "Entry | None" = None
    """Of a claim that is judged against SGD's best arm: as its own comparison alone bears it out.
    """


def ledger(rows: Sequence[RowEvidence], claims: Iterable[Claim] = CLAIMS) -> list[Entry]:
    """Judge every claim by one rule.

    All hypotheses of a claim have to be shown (the largest p counts) and one refutes it (the
    smallest counts, times how many can refute). Support and refutation are corrected over the
    page's claims by Benjamini and Hochberg's procedure, each at half of 5 %: so of the claims
    called reproduced at most 2.5 % are expected to be so by chance, and of those called not
    reproduced as many.

    Where a row has SGD with recomputed statistics, a claim that an average beats SGD has to hold
    against every arm of SGD, so against the best, and none is chosen by what it is judged by.
    What its own comparison says stands beside it, judged as if all claims were by theirs.

    Args:
        rows: Evidence of the study's rows.
        claims: What to judge.
    """
    tested = {
        claim: [(found, assess(found)) for found in claim.hypotheses(rows)] for claim in claims
    }
    own = _judged(tested)
    rivals = {
        claim: [(rival, assess(rival)) for rival in claim.rivals(rows)] if found else []
        for claim, found in tested.items()
    }
    if not any(rivals.values()):
        return own
    strict = _judged({claim: [*found, *rivals[claim]] for claim, found in tested.items()})
    return [
        replace(entry, own=by_own) if rivals[entry.claim] else entry
        for entry, by_own in zip(strict, own, strict=True)
    ]


def _judged(tested: Mapping[Claim, Sequence[Tested]]) -> list[Entry]:
    """A verdict on each claim, corrected for all of them."""
    tests = {claim: [w for _, w in found] for claim, found in tested.items()}
    supported = {claim: p for claim, t in tests.items() if (p := p_all_supported(t)) is not None}
    refuted = {claim: p for claim, t in tests.items() if (p := p_any_refuted(t)) is not None}
    by_bh = [_by_claim(ps, benjamini_hochberg(list(ps.values()))) for ps in (supported, refuted)]
    by_holm = [_by_claim(ps, holm(list(ps.values()))) for ps in (supported, refuted)]
    return [
        Entry(
            claim=claim,
            verdict=verdict(*(qs.get(claim) for qs in by_bh)) if found else "not run",
            tested=tuple(found),
            p_supported=supported.get(claim),
            p_supported_corrected=by_bh[0].get(claim),
            p_refuted=refuted.get(claim),
            p_refuted_corrected=by_bh[1].get(claim),
            survives_holm=verdict(*(qs.get(claim) for qs in by_bh))
            == verdict(*(qs.get(claim) for qs in by_holm)),
        )
        for claim, found in tested.items()
    ]


def deciding(entry: Entry) -> Tested | None:
    """The hypothesis on which the verdict hangs: the most refuted, else the least supported."""
    if not entry.tested:
        return None
    if entry.verdict == "not reproduced":
        return min(entry.tested, key=lambda f: 1.0 if f[1].p_refuted is None else f[1].p_refuted)
    return max(entry.tested, key=lambda f: 1.0 if f[1].p_supported is None else f[1].p_supported)


def alone(test: HypothesisTest) -> Verdict:
    """What one hypothesis says, uncorrected."""
    return verdict(test.p_supported, test.p_refuted)


def below_smallest_effect(entry: Entry) -> bool:
    """Whether a reproduced effect is shown to be smaller than the smallest of interest."""
    return entry.verdict == "reproduced" and any(
        hypothesis.refuted_at != hypothesis.bound
        and test.p_refuted is not None
        and test.p_refuted <= LEVEL / 2
        for hypothesis, test in entry.tested
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
