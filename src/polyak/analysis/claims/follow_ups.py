"""Runs that follow a row's choice, as rows of their own that differ from it in one setting."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyak.analysis.claims.evidence import RowEvidence, RunLog, flat
from polyak.analysis.results import Phase, Result
from polyak.records.runs import RunFolder, run_folder
from polyak.records.studies import RowRecord


def follow_up_evidence(
    out: Path, row: RowRecord, base: RowEvidence, results: Sequence[Result]
) -> Iterator[RowEvidence]:
    """A row's held and annealed runs, each as evidence beside the row's own.

    Args:
        out: The output folder that holds `runs/`.
        row: Names the runs.
        base: The evidence of the row itself.
        results: Numbers of the study.
    """
    for name, phase in (("held", "search"), ("annealed", "refit")):
        folders = _done(out, row.follow_ups.get(name, {}))
        if not folders:
            continue
        logs = {
            seed: RunLog(epochs=f.epochs(), monitors=f.monitors()) for seed, f in folders.items()
        }
        settings = _settings(base, [flat(f.config()) for f in folders.values()])
        as_phase: Phase = "search" if phase == "search" else "refit"
        yield replace(
            base,
            label=f"{row.label}, {name}",
            budget=int(settings["epochs"]),
            results=[
                replace(result, phase=as_phase)
                for result in results
                if (result.row, result.phase) == (row.label, name)
            ],
            search=logs if phase == "search" else {},
            refit=logs if phase == "refit" else {},
            stops={},
            settings=settings,
        )


def _settings(base: RowEvidence, configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The row's settings with what follows the choice; the mean where seeds differ in it."""
    epochs = sum(int(config["epochs"]) for config in configs) / len(configs)
    changed = {"optim.schedule": configs[0]["optim.schedule"], "epochs": int(epochs)}
    if configs[0].get("optim.hold_epoch") is not None:
        changed["optim.hold_epoch"] = configs[0]["optim.hold_epoch"]
    return {**base.settings, **changed}


def _done(out: Path, runs: Mapping[str, str]) -> dict[str, RunFolder]:
    folders = {seed: run_folder(out, run_id) for seed, run_id in runs.items()}
    return {seed: folder for seed, folder in folders.items() if folder.ending == "done"}
