"""What a row lacks when all phases are over, from its runs' folders: so for every sitting anew."""

from collections.abc import Collection, Mapping
from pathlib import Path

from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord


def lacking(record: RowRecord, out: Path, *, targets: Collection[str]) -> str | None:
    """Why a row's result is not there or not whole; None if nothing is amiss.

    Runs of the search that diverged are part of a search, and follow-ups that did, of what they
    show: neither is missed here.

    Args:
        record: The row after the last phase.
        out: The output folder.
        targets: Names of the data sets that its refits were to be probed on.
    """
    refits = _lost(record.refit, out)
    probes = _lost({name: record.transfer.get(name) for name in targets}, out)
    found = []
    if refits:
        found.append(f"the refit of {_listed('seed', refits)}")
    if probes:
        how = dict.fromkeys(probes, "not run") if refits else probes
        found.append(f"the linear probe on {_listed('', how)}")
    if not found:
        return None
    diverged = "diverged" in refits.values()
    advice = "Search smaller learning rates." if diverged else "Give the same command again."
    return f"{' and '.join(found)}; expected all to end. {advice}"


def _lost(runs: Mapping[str, str | None], out: Path) -> dict[str, str]:
    """What became of the runs that are not done, by seed or name."""
    endings = {
        name: run_folder(out, run_id).ending if run_id else None for name, run_id in runs.items()
    }
    return {name: ending or "not done" for name, ending in endings.items() if ending != "done"}


def _listed(kind: str, lost: Mapping[str, str]) -> str:
    return ", ".join(f"{kind} {name} is {how}".strip() for name, how in lost.items())
