"""What was run, what it cost, and what is missing and why: facts about a row, no results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyak.analysis.results import Phase
from polyak.records.predictions import Predictions
from polyak.records.runs import RunFolder, run_folder
from polyak.records.studies import RowRecord
from polyak.report.numbers import counted, joined

NOT_MEASURED = "not measured"
_PHASE_WORDS = {
    "search": "search run",
    "refit": "refit",
    "held": "run with a held learning rate",
    "annealed": "run annealed early",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What runs took; wall time depends on the machine, the rest does not."""

    runs: int
    seconds: float
    images: int
    """Training images processed, epochs × images; probes not counted."""

    steps: int


def all_runs(row: RowRecord) -> list[str]:
    """Ids of a row's runs, probes included."""
    searches = [run_id for runs in row.search.values() for run_id in runs.values()]
    following = [run_id for runs in row.follow_ups.values() for run_id in runs.values()]
    return [*searches, *row.refit.values(), *following, *row.transfer.values()]


def cost(out: Path, run_ids: Iterable[str]) -> Cost:
    """What the runs that have ended took; a run that rows share counts once."""
    ended = [run_folder(out, run_id) for run_id in dict.fromkeys(run_ids)]
    ended = [folder for folder in ended if folder.ending is not None]
    facts = [(folder.facts(), folder.epochs()) for folder in ended]
    return Cost(
        runs=len(ended),
        seconds=sum(found.get("seconds", 0.0) for found, _ in facts),
        images=sum(found.get("images", 0) * len(epochs) for found, epochs in facts),
        steps=sum(epochs[-1].step for _, epochs in facts if epochs),
    )


def images_in_test(out: Path, row: RowRecord) -> int | None:
    """Size of the test set; None while no run is finished."""
    for run_id in (*row.chosen_search.values(), *row.refit.values()):
        folder = run_folder(out, run_id)
        if folder.ending == "done":
            return len(Predictions(folder.predictions).labels_n("test"))
    return None


def wrong_labels(out: Path, row: RowRecord) -> tuple[int, int] | None:
    """Wrongly labelled training images of the refit and all of them; None where all are right."""
    for run_id in (*row.refit.values(), *row.chosen_search.values()):
        folder = run_folder(out, run_id)
        if folder.ending == "done":
            predictions = Predictions(folder.predictions)
            given_n, clean_n = (predictions.labels_n("train", kind) for kind in ("given", "clean"))
            wrong = int((given_n != clean_n).sum())
            return (wrong, len(given_n)) if wrong else None
    return None


def settings(out: Path, row: RowRecord) -> list[tuple[str, str]]:
    """What all runs of the row have in common, from a run's configuration."""
    config = configuration(out, row)
    if config is None:
        return []
    data, optim, averaging = (config.get(part, {}) for part in ("data", "optim", "averaging"))
    found = [
        ("data", _data(data)),
        ("labels", _noise(data.get("noise", {}))),
        ("model", _model(config.get("model", {}), row)),
        ("training", f"{config.get('epochs')} epochs, batch {config.get('batch_size')}"),
        ("optimiser", _optimiser(optim)),
        ("averages", _averages(row, averaging)),
        ("computed in", _precision(config)),
    ]
    return [(name, text) for name, text in found if text]


def configuration(out: Path, row: RowRecord) -> dict[str, Any] | None:
    """Configuration of one of the row's runs; None while there is none."""
    for run_id in all_runs(row):
        folder: RunFolder = run_folder(out, run_id)
        if (folder.path / "config.json").exists():
            return folder.config()
    return None


def wants_refits(row: RowRecord) -> bool:
    """Whether the study wants models of all training data, or those of the search alone."""
    # Studies recorded before rows had the field wanted them.
    return row.refits


def reason(out: Path, row: RowRecord, phase: Phase) -> str:
    """Why a row has no number of a phase, short enough for a cell."""
    if row.failure is not None:
        return "search failed"
    if not row.stops:
        return "search not finished"
    if phase in ("refit", "transfer") and not wants_refits(row):
        return "no refits in this study"
    runs = {
        "search": row.chosen_search,
        "refit": row.refit,
        "transfer": row.transfer,
        **row.follow_ups,
    }.get(phase, {})
    if not runs and phase == "transfer":
        return "no probe was run"
    endings = {run_folder(out, run_id).ending for run_id in runs.values()}
    if not endings or None in endings:
        return "not finished"
    return "diverged" if endings == {"diverged"} else NOT_MEASURED


def problems(out: Path, row: RowRecord) -> list[str]:
    """Everything about a row that a reader must know before its numbers, one sentence each."""
    found = []
    phases = {"search": row.chosen_search, "refit": row.refit, **row.follow_ups}
    for phase, runs in phases.items():
        found += _ended_badly(out, phase, runs)
    for target, run_id in row.transfer.items():
        if run_folder(out, run_id).ending != "done":
            found.append(f"The linear probe on {target} is not finished.")
    if row.failure is None and row.stops and not row.refit and wants_refits(row):
        found.append("No refit was run yet.")
    if len(row.seeds) == 1:
        found.append(
            "There is one seed. Numbers have no interval, and nothing here says what is chance."
        )
    return found


def _ended_badly(out: Path, phase: str, runs: Mapping[str, str]) -> list[str]:
    by_ending: dict[str, list[str]] = {}
    for seed, run_id in runs.items():
        ending = run_folder(out, run_id).ending
        if ending != "done":
            by_ending.setdefault(ending or "is not finished", []).append(seed)
    return [
        f"The {_PHASE_WORDS[phase]} of {_seeds(seeds)} {ending}; "
        "it is left out of all numbers below."
        for ending, seeds in by_ending.items()
    ]


def _seeds(seeds: list[str]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {joined(seeds)}"


def _data(data: Mapping[str, Any]) -> str:
    source = str(data.get("source", ""))
    # Where a folder lies on some machine says nothing to a reader on another.
    source = Path(source).name if Path(source).is_absolute() else source
    holdout = data.get("holdout")
    if not isinstance(holdout, float):
        return source
    return f"{source}; {100 * holdout:g} % of the training images are the hold-out in the search"


def _model(model: Mapping[str, Any], row: RowRecord) -> str:
    name, width = str(model.get("name", row.architecture)), model.get("width")
    return name if width is None else f"{name} of width {width}"


def _precision(config: Mapping[str, Any]) -> str:
    """Where a run says so itself; else it is the device's default."""
    chosen = "float32" if config.get("fp32") else config.get("precision")
    floating = "bfloat16; weights, statistics and averages in float32"
    return floating if chosen == "bfloat16" else chosen or ""


def _noise(noise: Mapping[str, Any]) -> str:
    kind, rate = noise.get("kind", "none"), noise.get("rate", 0.0)
    if kind == "none":
        return "as published"
    drawn = (
        f"{100 * rate:g} % of them wrong, {kind} noise"
        if rate
        else f"{noise.get('key')} from a file"
    )
    return f"{drawn}; hold-out labels too, test labels never"


def _optimiser(optim: Mapping[str, Any]) -> str:
    if not optim:
        return ""
    return (
        f"SGD, Nesterov momentum {optim.get('momentum')}, "
        f"weight decay {optim.get('weight_decay'):g}, schedule {optim.get('schedule')} "
        f"after {optim.get('warmup_epochs'):g} epochs of warm-up"
    )


def _averages(row: RowRecord, averaging: Mapping[str, Any]) -> str:
    if not averaging:
        return ""
    every = averaging.get("every", 1)
    often = "after every step" if every == 1 else f"every {every} steps"
    return f"{counted(len(row.averages), 'average')} updated {often}"
