"""What was run, what it cost, and what is missing and why: facts about a row, no results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyak.analysis.loaded import LoadedRow, LoadedRun
from polyak.records.vocabulary import CONTROLS, Phase
from polyak.report.names import arm_name
from polyak.report.numbers import counted, joined, percent_digits

NOT_MEASURED = "not measured"
_PHASE_WORDS: dict[Phase, str] = {
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


def cost(runs: Iterable[LoadedRun]) -> Cost:
    """What the runs that have ended took; a run that rows share counts once."""
    ended = [run for run in {run.id: run for run in runs}.values() if run.ending is not None]
    return Cost(
        runs=len(ended),
        seconds=sum(run.seconds for run in ended),
        images=sum((run.images or 0) * len(run.log.epochs) for run in ended),
        steps=sum(run.log.epochs[-1].step for run in ended if run.log.epochs),
    )


def accuracy_digits(row: LoadedRow) -> int:
    """Decimals that an accuracy on the row's test set can bear."""
    return percent_digits(row.test_images or 0)


def settings(row: LoadedRow) -> list[tuple[str, str]]:
    """What all runs of the row have in common, from a run's configuration."""
    config = row.config
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
        ("BatchNorm", _statistics(row, config)),
        ("computed in", _precision(config)),
    ]
    return [(name, text) for name, text in found if text]


def reason(row: LoadedRow, phase: Phase) -> str:
    """Why a row has no number of a phase, short enough for a cell."""
    record = row.record
    if record.failure is not None:
        return "search failed"
    if not record.stops:
        return "search not finished"
    if phase in ("refit", "transfer") and not record.refits:
        return "no refits in this study"
    runs = row.of(phase)
    if not runs and phase == "transfer":
        return "no probe was run"
    endings = {run.ending for run in runs.values()}
    if not endings or None in endings:
        return "not finished"
    return "diverged" if endings == {"diverged"} else NOT_MEASURED


def problems(row: LoadedRow) -> list[str]:
    """Everything about a row that a reader must know before its numbers, one sentence each."""
    record, found = row.record, []
    for phase in row.phases:
        found += _ended_badly(phase, row.of(phase))
    for target, probe in row.of("transfer").items():
        if not probe.done:
            found.append(f"The linear probe on {target} is not finished.")
    if record.failure is None and record.stops and not record.refit and record.refits:
        found.append("No refit was run yet.")
    found += _partly_asked(row)
    if len(record.seeds) == 1:
        found.append(
            "There is one seed. Numbers have no interval, and nothing here says what is chance."
        )
    return found


def _ended_badly(phase: Phase, runs: Mapping[str, LoadedRun]) -> list[str]:
    by_ending: dict[str, list[str]] = {}
    for seed, run in runs.items():
        if not run.done:
            by_ending.setdefault(run.ending or "is not finished", []).append(seed)
    return [
        f"The {_PHASE_WORDS[phase]} of {_seeds(seeds)} {ending}; "
        "it is left out of all numbers below."
        for ending, seeds in by_ending.items()
    ]


def _partly_asked(row: LoadedRow) -> list[str]:
    """That SGD with recomputed statistics is of some runs only, so its means are of fewer seeds."""
    found = []
    for phase in row.phases:
        runs = row.done(phase)
        for arm, source in CONTROLS.items():
            known, of = (
                row.results.by_seed(phase=phase, arm=name, metric="accuracy")
                for name in (arm, source)
            )
            if known and known.keys() < of.keys() <= runs.keys():
                found.append(
                    f"{arm_name(arm)} is there for {_seeds(list(known))} of the "
                    f"{_PHASE_WORDS[phase]} only: call polyak evaluate --controls again."
                )
    return found


def _statistics(row: LoadedRow, config: Mapping[str, Any]) -> str:
    """How statistics are recomputed for the arms that say + BN."""
    if row.batchnorm is False:
        return ""
    data = config.get("data", {})
    ways = {"cropped": data.get("crop_padding", 4), "flipped": data.get("flip", True)}
    done = " and ".join(way for way, given in ways.items() if given)
    off = config.get("batchnorm_augmentation", "on") == "off"
    how = f"{done} as in training" if done and not off else "as they are"
    return f"statistics for “+ BN” recomputed in one pass over the training images, {how}"


def _seeds(seeds: list[str]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {joined(seeds)}"


def _data(data: Mapping[str, Any]) -> str:
    source = str(data.get("source", ""))
    # Where a folder lies on some machine says nothing to a reader on another.
    source = Path(source).name if Path(source).is_absolute() else source
    what = "images"
    if source.startswith("text:"):
        # Likewise of a folder of text.
        source = (
            f"text, {Path(source.removeprefix('text:')).name}, {data.get('context', 128)} bytes"
        )
        what = "files"
    holdout = data.get("holdout")
    if not isinstance(holdout, float):
        return source
    return f"{source}; {100 * holdout:g} % of the training {what} are the hold-out in the search"


def _model(model: Mapping[str, Any], row: LoadedRow) -> str:
    name = str(model.get("name", row.record.architecture))
    options = [f"{key} {model[key]}" for key in ("width", "patch", "depth") if model.get(key)]
    if model.get("norm") == "group":
        options.append("GroupNorm")
    return " of ".join([name, ", ".join(options)] if options else [name])


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
    momentum, (first, second) = optim.get("momentum"), optim.get("betas", (0.9, 0.999))
    adamw = f"AdamW, betas {first:g} and {second:g}"
    name = {
        "sgd": f"SGD, Nesterov momentum {momentum}",
        "adamw": adamw,
        "muon": f"Muon, Nesterov momentum {momentum}, for matrices, and {adamw}, for the rest",
    }[optim.get("name", "sgd")]
    clip = "" if optim.get("clip") is None else f"gradients clipped to {optim['clip']:g}, "
    return (
        f"{name}, {clip}"
        f"weight decay {optim.get('weight_decay'):g}, schedule {optim.get('schedule')} "
        f"after {optim.get('warmup_epochs'):g} epochs of warm-up"
    )


def _averages(row: LoadedRow, averaging: Mapping[str, Any]) -> str:
    if not averaging:
        return ""
    every = averaging.get("every", 1)
    often = "after every step" if every == 1 else f"every {every} steps"
    return f"{counted(len(row.record.averages), 'average')} updated {often}"
