"""A study's own claims on its page: as registered, what was changed since, what the runs say."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from polyak.analysis.claims.declared import judgeable
from polyak.analysis.claims.evidence import study_evidence
from polyak.analysis.claims.ledger import Entry, counts, ledger
from polyak.analysis.loaded import LoadedStudy
from polyak.errors import FileError
from polyak.files import read_json
from polyak.records.claims import SCALES, Claim
from polyak.records.registration import Power, changes
from polyak.report.numbers import counted, number
from polyak.report.sections.claims import FILE, LedgerPart, entry_record, ledger_part, words

NOT_REGISTERED = (
    "Nothing shows that they were written down before the runs: read them as claims made "
    "afterwards. polyak study --register registers claims while nothing has run."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnEntries:
    """A study's own claims, judged: two families, each corrected for its own number."""

    registered: Sequence[Entry]
    """As they were registered, also where the study no longer has them."""

    later: Sequence[Entry]
    """Those of the study that were not registered as they are now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPart:
    """The section on a study's own claims."""

    title: str
    notice: str
    """Above all else on the page: that they are not registered, or were changed; empty if not."""

    changes: Sequence[str]
    about: str
    """When they were registered, and as what."""

    registered: LedgerPart | None
    later: LedgerPart | None
    power: Sequence[tuple[str, str, str, str, str]]
    """Comparison, seeds, spread, what is detectable, and the same corrected."""

    sources: str
    """What the spread was assumed from."""

    says: Sequence[tuple[str, str, str]]
    """Of each claim: id, sentence, verdict."""


def judge_own(study: LoadedStudy) -> OwnEntries | None:
    """A study's own claims against its files; None if it has none.

    What was registered is judged as it was, whatever its file says now: a claim that was removed
    stands, a bound that was moved counts where it was. What came later is judged apart, so that it
    changes nothing about these.
    """
    registered = () if study.registration is None else study.registration.claims
    later = [claim for claim in study.record.claims if claim not in registered]
    if not registered and not later:
        return None
    rows = study_evidence(study)
    families = [ledger(rows, map(judgeable, claims)) for claims in (registered, later)]
    return OwnEntries(registered=families[0], later=families[1])


def own_part(study: LoadedStudy, entries: OwnEntries | None) -> OwnPart | None:
    """The section as the page has it."""
    if entries is None:
        return None
    found, registration = _changes(study), study.registration
    notice = ""
    if registration is None:
        notice = "Its own claims are not registered"
    elif found:
        notice = f"Changed since its claims were registered on {_day(registration.date)}"
    power = () if registration is None else registration.power
    return OwnPart(
        title="What this study claims, and what its runs say",
        notice=notice,
        changes=found if registration is not None else [NOT_REGISTERED],
        about=_about(study),
        registered=_ledger(study, entries.registered, _claims(study, registered=True)),
        later=_ledger(study, entries.later, study.record.claims),
        power=[_power_line(each) for each in power],
        sources="; ".join(dict.fromkeys(each.source for each in power)),
        says=[
            (entry.claim.id, entry.claim.sentence, entry.verdict) for entry in entries.registered
        ],
    )


def own_record(study: LoadedStudy, entries: OwnEntries | None) -> Mapping[str, object] | None:
    """A study's own claims in claims.json; None if it has none."""
    if entries is None:
        return None
    registration = study.registration
    families = ((True, entries.registered), (False, entries.later))
    return {
        "registered": None if registration is None else registration.date,
        "digest": None if registration is None else registration.digest,
        "changes": _changes(study),
        "power": [] if registration is None else [asdict(each) for each in registration.power],
        "claims": [
            {**entry_record(entry), "registered": registered}
            for registered, family in families
            for entry in family
        ],
    }


def own_claims(folder: Path) -> dict[str, object] | None:
    """A study's own claims and their registration, from its report's folder; None if it has none.

    Returns:
        `registered`, a date or None; `changes`, phrases; `claims`, each with `id`, `verdict` and
        whether it is `registered`.

    Raises:
        FileError: if claims.json is missing or damaged.
    """
    path = folder / FILE
    try:
        own = read_json(path).get("own")
        if own is None:
            return None
        claims = [{key: c[key] for key in ("id", "verdict", "registered")} for c in own["claims"]]
        return {"registered": own["registered"], "changes": own["changes"], "claims": claims}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); expected the ledger of a report. "
            "Write the report again."
        ) from error


def own_claims_line(own: Mapping[str, Any]) -> str:
    """One line about them for the terminal."""
    date, changed = own["registered"], "; changed since" if own["changes"] else ""
    how = "not registered" if date is None else f"registered on {_day(date)}{changed}"
    return f"its own claims, {how}: {counts([claim['verdict'] for claim in own['claims']])}"


def _changes(study: LoadedStudy) -> Sequence[str]:
    return [] if study.registration is None else changes(study.registration, study.record)


def _claims(study: LoadedStudy, *, registered: bool) -> Sequence[Claim]:
    if not registered or study.registration is None:
        return study.record.claims
    return study.registration.claims


def _ledger(
    study: LoadedStudy, entries: Sequence[Entry], claims: Sequence[Claim]
) -> LedgerPart | None:
    """The ledger of one family, with the seeds that a claim lacks."""
    if not entries:
        return None
    part = ledger_part(study.record, entries)
    by_id = {claim.id: claim for claim in claims}
    lines = [
        replace(
            line,
            test=words(line.test),
            because=(*line.because, *_lacking(study, by_id[line.id], entry)),
        )
        for line, entry in zip(part.lines, entries, strict=True)
    ]
    return replace(part, lines=tuple(lines))


def _lacking(study: LoadedStudy, claim: Claim, entry: Entry) -> list[str]:
    """That fewer seeds have a number than the claim is about: runs that diverged or are to come."""
    if not entry.tested:
        return []
    of_rows = {row.label: set(row.record.seeds) for row in study.rows}
    about = [of_rows[r] for each in claim.comparisons for r in each.rows if r in of_rows]
    wanted = len(claim.seeds or set.intersection(*about))
    least = min(test.n for _, test in entry.tested)
    return [f"of {counted(wanted, 'seed')} {least} so far"] if least < wanted else []


def _about(study: LoadedStudy) -> str:
    registration = study.registration
    if registration is None:
        return ""
    what = counted(len(registration.claims), "claim")
    return (
        f"{what} registered on {registration.date.replace('T', ' ').removesuffix('+00:00')} UTC, "
        f"before any of these runs; digest {registration.digest[:12]}."
    )


def _day(date: str) -> str:
    return date.partition("T")[0]


def _power_line(power: Power) -> tuple[str, str, str, str, str]:
    shown = [
        "–" if value is None else number(value / SCALES[power.unit], 3 if _fine(power) else 2)
        for value in (power.sd, power.detectable, power.detectable_corrected)
    ]
    return (words(power.what), str(power.seeds), shown[0], shown[1], shown[2])


def _fine(power: Power) -> bool:
    return power.unit in ("nats", "score", "share")
