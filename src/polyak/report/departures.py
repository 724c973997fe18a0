"""Where a study departs from the paper: smaller, or with another protocol."""

from collections.abc import Sequence
from pathlib import Path

from polyak.analysis.timescales import decay_timescales
from polyak.records.paper_code import PAPER_CODE, in_order
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord, StudyRecord
from polyak.report.facts import configuration
from polyak.report.names import average_name, paper_name
from polyak.report.numbers import counted
from polyak.report.paper.published import key, numbers_for, protocol, timescales


def smaller(out: Path, row: RowRecord) -> list[str]:
    """What a row has less of than the paper, a phrase each; empty where nothing is less."""
    found = _short_of_protocol(out, row)
    pairs = [
        f"{average_name(name)} for the paper’s {average_name(paper)}"
        for name in row.averages
        if (paper := paper_name(row, name))
    ]
    if pairs and not protocol(row.dataset):
        found.append(f"{row.dataset} is no data set of the paper")
    if pairs or protocol(row.dataset):
        found += _renewals(out, row)
    if pairs:
        found.append("decays fitted to the shorter run: " + ", ".join(pairs))
    return found


def row_remark(out: Path, row: RowRecord) -> str:
    """Under a row's heading: that it is smaller than the paper's, or not the paper's at all."""
    if not protocol(row.dataset):
        return "not a row of the paper"
    if not numbers_for(row.dataset, row.architecture):
        return f"ours is {row.architecture}, no reproduction"
    return "ours is smaller, no reproduction" if smaller(out, row) else ""


def scale_notice(out: Path, study: StudyRecord) -> list[tuple[str, list[str]]]:
    """What rows have less of than the paper's: first what all have, then what some have."""
    by_row = {row.label: smaller(out, row) for row in study.rows}
    common = [p for p in next(iter(by_row.values()), []) if all(p in o for o in by_row.values())]
    by_phrases: dict[tuple[str, ...], list[str]] = {}
    for label, phrases in by_row.items():
        own = tuple(p for p in phrases if p not in common)
        if own:
            by_phrases.setdefault(own, []).append(label)
    everyone = [("all rows" if len(by_row) > 1 else study.rows[0].label, common)] if common else []
    return everyone + [("; ".join(labels), list(own)) for own, labels in by_phrases.items()]


def _short_of_protocol(out: Path, row: RowRecord) -> list[str]:
    paper, config = protocol(row.dataset), configuration(out, row)
    if not paper or config is None:
        return []
    model = str(config.get("model", {}).get("name", row.architecture))
    found = []
    if not numbers_for(row.dataset, row.architecture):
        found.append(f"{row.architecture}, with which the paper has nothing on {row.dataset}")
    elif key(model) != key(row.architecture):
        found.append(f"model {model} instead of {row.architecture}")
    for what, ours, theirs in (
        ("epoch", config.get("epochs"), paper["epochs"]),
        ("training image", _images(out, list(row.refit.values())), paper["training_images"]),
        ("seed", len(row.seeds), paper["seeds"]),
    ):
        if ours is not None and ours < theirs:
            found.append(f"{counted(ours, what)} instead of {theirs:,}")
    return found


def _renewals(out: Path, row: RowRecord) -> list[str]:
    """That weight decay does less than in the paper's runs, which changes what averages do."""
    runs = [(run_id, False) for run_id in row.refit.values()]
    runs += [(run_id, True) for run_id in row.chosen_search.values()]
    done = [(run_folder(out, i), holdout) for i, holdout in runs]
    done = [(folder, holdout) for folder, holdout in done if folder.ending == "done"]
    optim = (configuration(out, row) or {}).get("optim")
    if not done or not optim:
        return []
    folder, holdout = done[0]
    ours = decay_timescales(
        folder.epochs(), weight_decay=optim["weight_decay"], momentum=optim["momentum"]
    )
    everywhere = timescales(holdout=holdout)
    here = [found for name, found in everywhere.items() if key(name) == key(row.dataset)]
    theirs = here or list(everywhere.values())
    if ours >= min(theirs):
        return []
    ends = dict.fromkeys(f"{end:.2g}" for end in (min(theirs), max(theirs)))
    return [
        f"weight decay renews the weights {ours:.2g} times in a run instead of {' to '.join(ends)}"
    ]


def _images(out: Path, run_ids: Sequence[str]) -> int | None:
    """Training images of a finished refit."""
    for run_id in run_ids:
        folder = run_folder(out, run_id)
        if folder.ending == "done":
            count: int | None = folder.facts().get("images")
            return count
    return None


BN_SAFE = (
    "Averages and epochs are chosen with BatchNorm statistics recomputed after each epoch. "
    "EMA (acc.) + BN and EMA (loss) + BN are the averages that were chosen so, not those of the "
    "longest window."
)
CLEAN_HOLDOUT = (
    "An oracle, not to be had in practice: selection and temperature see the right labels of the "
    "hold-out, where training labels are wrong."
)


def departures(study: StudyRecord) -> list[str]:
    """What is switched on in any row, as the page's box lists it."""
    coded = in_order(name for row in study.rows for name in row.paper_code)
    found = [f"As the authors’ code does ({name}): {PAPER_CODE[name]}" for name in coded]
    found += [BN_SAFE] if any(row.selection == "bn_safe" for row in study.rows) else []
    found += [CLEAN_HOLDOUT] if any(row.holdout_labels == "clean" for row in study.rows) else []
    return found
