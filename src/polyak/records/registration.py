"""What a study claimed before it ran: its claims, its plan and what its seeds can see, dated.

out/<study>/registration.json   written by `polyak study --register`, never changed once runs began

It finds what was changed afterwards, not malice: who can write the file can write another.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from polyak.errors import FileError
from polyak.records.checked import read_checked, write_checked
from polyak.records.claims import Claim, Comparison, Unit, claims_from
from polyak.records.studies import StudyRecord, printable_texts

FILE = "registration.json"
PLAN = (
    "label",
    "seeds",
    "learning_rates",
    "search",
    "refits",
    "wanted",
    "selection",
    "holdout_labels",
    "paper_code",
)
"""What of a row's record is known before anything runs, and decides what its numbers are. Ids of
the search hold all settings, the data's fingerprint and the code of a network of one's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What the seeds of a claim can see of one of its comparisons."""

    claim: str
    what: str
    """The comparison, in words."""

    unit: Unit
    seeds: int
    sd: float | None
    """Of single seeds, assumed; fractions, nats. None where nothing is known to assume."""

    source: str
    """What it is assumed from."""

    detectable: float | None
    """The smallest distance from the bound that is shown in four of five cases."""

    detectable_corrected: float | None
    """The same where this is the only claim of the study that is true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A study's claims and plan as they were before its first run."""

    study: str
    date: str
    """UTC, ISO 8601."""

    polyak: str
    """Version that wrote it."""

    claims: tuple[Claim, ...]
    plan: tuple[Mapping[str, Any], ...]
    """Of each row what `PLAN` names."""

    power: tuple[Power, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of claims and plan, in hexadecimal digits."""
        what = {"claims": [asdict(claim) for claim in self.claims], "plan": self.plan}
        return hashlib.sha256(json.dumps(_plain(what), sort_keys=True).encode()).hexdigest()

    def holds(self, claim: Claim) -> bool:
        """Whether a claim was registered just as it is."""
        return claim in self.claims


def plan_of(study: StudyRecord) -> tuple[Mapping[str, Any], ...]:
    """What a study's record says of its plan that no run can change."""
    return tuple(
        _plain({name: value for name, value in asdict(row).items() if name in PLAN})
        for row in study.rows
    )


def write_registration(folder: Path, registration: Registration) -> None:
    """Write registration.json into a study's folder."""
    record = {**asdict(registration), "digest": registration.digest}
    write_checked(folder / FILE, record)


def read_registration(folder: Path) -> Registration | None:
    """The registration in a study's folder; None where there is none.

    Raises:
        FileError: if it is damaged or was edited.
    """
    path = folder / FILE
    try:
        record = printable_texts(read_checked(path))
        record["claims"] = claims_from(record["claims"])
        record["plan"] = tuple(record["plan"])
        record["power"] = tuple(Power(**each) for each in record["power"])
        digest = record.pop("digest")
        found = Registration(**record)
        if found.digest != digest:
            raise ValueError("its digest is not that of its claims and plan")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); expected what `polyak study --register` wrote. "
            "Restore it, or remove it: then the study's claims are not registered."
        ) from error
    return found


def changes(registration: Registration, study: StudyRecord) -> tuple[str, ...]:
    """What a study claims or plans otherwise than was registered, a phrase each."""
    return (
        *_claims_changed(registration.claims, study.claims),
        *_plan_changed(registration.plan, plan_of(study)),
    )


def _claims_changed(before: Sequence[Claim], now: Sequence[Claim]) -> Iterator[str]:
    was, is_now = ({claim.id: claim for claim in claims} for claims in (before, now))
    yield from (f"claim {name} was added" for name in is_now if name not in was)
    for name, claim in was.items():
        if name not in is_now:
            yield f"claim {name} was removed"
            continue
        other = is_now[name]
        if claim.sentence != other.sentence:
            yield f"claim {name}: its sentence was “{claim.sentence}”, is “{other.sentence}”"
        if claim.seeds != other.seeds:
            yield f"claim {name}: {_was('seeds', claim.seeds, other.seeds)}"
        yield from (f"claim {name}: {found}" for found in _compared(claim, other))


def _compared(before: Claim, now: Claim) -> Iterator[str]:
    if len(before.comparisons) != len(now.comparisons):
        yield _was("number of comparisons", len(before.comparisons), len(now.comparisons))
        return
    for number, pair in enumerate(zip(before.comparisons, now.comparisons, strict=True), start=1):
        place = f" of comparison {number}" if len(before.comparisons) > 1 else ""
        for field in fields(Comparison):
            was, is_now = (getattr(comparison, field.name) for comparison in pair)
            if was != is_now:
                yield _was(f"{field.name}{place}", was, is_now)


def _plan_changed(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    was, is_now = ({row["label"]: row for row in rows} for rows in (before, now))
    yield from (f"row {label!r} was added to the plan" for label in is_now if label not in was)
    for label, row in was.items():
        if label not in is_now:
            yield f"row {label!r} was removed from the plan"
            continue
        for name in PLAN:
            if name != "search" and row.get(name) != is_now[label].get(name):
                yield f"row {label!r}: {_was(name, row.get(name), is_now[label].get(name))}"
        if _differ(row["search"], is_now[label]["search"]):
            yield f"row {label!r}: its runs are others (their settings, data or network’s code)"


def _differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether runs of a learning rate and seed that both plan are not the same runs."""
    return any(
        before[rate][seed] != now[rate][seed]
        for rate in before.keys() & now.keys()
        for seed in before[rate].keys() & now[rate].keys()
    )


def _was(name: str, before: object, now: object) -> str:
    return f"{name} was {_shown(before)}, is {_shown(now)}"


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}".replace("-", "−") if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """As it will be read again: tuples are lists in JSON."""
    return json.loads(json.dumps(value))
