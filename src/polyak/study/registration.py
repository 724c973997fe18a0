"""Claims of a study written down before its first run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from polyak.errors import ConfigError
from polyak.records.locks import holding
from polyak.records.registration import (
    Power,
    Registration,
    plan_of,
    read_registration,
    write_registration,
)
from polyak.records.runs import refuse_links, run_folder
from polyak.records.studies import StudyRecord, write_study


def register(
    record: StudyRecord, out: Path, *, power: Sequence[Power], version: str
) -> tuple[Registration, bool]:
    """Write a study's registration beside its plan, while none of its runs has begun.

    Args:
        record: Of the study, with the ids of its search.
        out: The output folder.
        power: What its seeds can see.
        version: Of this package.

    Returns:
        The registration, and whether it is new: the same claims and plan are registered once.

    Raises:
        ConfigError: if there is no claim, or a run has begun.
        FileError: if there is a registration that cannot be read.
        HeldError: if another process is at work on this study.
    """
    if not record.claims:
        raise ConfigError(
            f"register is given and study {record.name!r} has no claims; expected some of its own. "
            "Declare them in its file: Study(…, claims=(Claim(…),))."
        )
    registration = Registration(
        study=record.name,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        polyak=version,
        claims=record.claims,
        plan=plan_of(record),
        power=tuple(power),
    )
    folder = out / record.name
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    with holding(folder):
        before = read_registration(folder)
        if before is not None and before.digest == registration.digest:
            return before, False
        _refuse_begun(record, out, before)
        # So that `polyak status` and `polyak report` know the study before it runs.
        write_study(folder, record)
        write_registration(folder, registration)
    return registration, True


def _refuse_begun(record: StudyRecord, out: Path, before: Registration | None) -> None:
    """Whoever could have looked at runs claims nothing beforehand."""
    runs = dict.fromkeys(
        run for row in record.rows for by_seed in row.search.values() for run in by_seed.values()
    )
    begun = [run for run in runs if run_folder(out, run).path.exists()]
    if not begun:
        return
    kept = "" if before is None else f" What was registered on {before.date} stands."
    raise ConfigError(
        f"register is given when {len(begun)} of the {len(runs)} runs of the search have begun; "
        "expected none, since what is claimed after them is not claimed beforehand. Give seeds or "
        "an output folder of which nothing has run, or run the study as it is: its page says that "
        f"its claims are not registered.{kept}"
    )
