"""Where a study departs from the paper: smaller, or with another protocol."""

from polyak.analysis.loaded import LoadedRow, LoadedStudy
from polyak.analysis.timescales import decay_timescales
from polyak.records.paper_code import PAPER_CODE, in_order
from polyak.report.names import average_name, paper_name
from polyak.report.numbers import counted
from polyak.report.paper.published import key, numbers_for, protocol, timescales

BN_SAFE = (
    "Averages and epochs are chosen with BatchNorm statistics recomputed after each epoch. "
    "EMA (acc.) + BN and EMA (loss) + BN are the averages that were chosen so, not those of the "
    "longest window."
)
CLEAN_HOLDOUT = (
    "An oracle, unavailable in practice: selection and temperature see the right labels of the "
    "hold-out, where training labels are wrong."
)

STATISTICS_AS_THEY_ARE = (
    "BatchNorm statistics are recomputed from the training images as they are, without the crops "
    "and flips of training."
)


def smaller(row: LoadedRow) -> list[str]:
    """What a row has less of than the paper, a phrase each; empty where nothing is less."""
    found = _short_of_protocol(row)
    pairs = [
        f"{average_name(name)} for the paper’s {average_name(paper)}"
        for name in row.record.averages
        if (paper := paper_name(row.record, name))
    ]
    if pairs and not protocol(row.record.dataset):
        found.append(f"{row.record.dataset} is no data set of the paper")
    if pairs or protocol(row.record.dataset):
        found += _renewals(row)
    if pairs:
        found.append("decays fitted to the shorter run: " + ", ".join(pairs))
    return found


def row_remark(row: LoadedRow) -> str:
    """Under a row's heading: that it is smaller than the paper's, or not the paper's at all."""
    if not protocol(row.record.dataset):
        return "not a row of the paper"
    if not numbers_for(row.record.dataset, row.record.architecture):
        return f"ours is {row.record.architecture}, no reproduction"
    return "ours is smaller, no reproduction" if smaller(row) else ""


def scale_notice(study: LoadedStudy) -> list[tuple[str, list[str]]]:
    """What rows have less of than the paper's: first what all have, then what some have."""
    by_row = {row.label: smaller(row) for row in study.rows}
    common = [p for p in next(iter(by_row.values()), []) if all(p in o for o in by_row.values())]
    by_phrases: dict[tuple[str, ...], list[str]] = {}
    for label, phrases in by_row.items():
        own = tuple(p for p in phrases if p not in common)
        if own:
            by_phrases.setdefault(own, []).append(label)
    everyone = [("all rows" if len(by_row) > 1 else study.rows[0].label, common)] if common else []
    return everyone + [("; ".join(labels), list(own)) for own, labels in by_phrases.items()]


def _short_of_protocol(row: LoadedRow) -> list[str]:
    record, config = row.record, row.config
    paper = protocol(record.dataset)
    if not paper or config is None:
        return []
    model = str(config.get("model", {}).get("name", record.architecture))
    found = []
    if not numbers_for(record.dataset, record.architecture):
        found.append(f"{record.architecture}, with which the paper has nothing on {record.dataset}")
    elif key(model) != key(record.architecture):
        found.append(f"model {model} instead of {record.architecture}")
    images = next((run.images for run in row.done("refit").values()), None)
    for what, ours, theirs in (
        ("epoch", config.get("epochs"), paper["epochs"]),
        ("training image", images, paper["training_images"]),
        ("seed", len(record.seeds), paper["seeds"]),
    ):
        if ours is not None and ours < theirs:
            found.append(f"{counted(ours, what)} instead of {theirs:,}")
    return found


def _renewals(row: LoadedRow) -> list[str]:
    """That weight decay does less than in the paper's runs, which changes what averages do."""
    done = [(run.log, False) for run in row.done("refit").values()]
    done += [(run.log, True) for run in row.done("search").values()]
    optim = (row.config or {}).get("optim")
    if not done or not optim:
        return []
    log, holdout = done[0]
    momentum = optim["momentum"] if optim.get("name", "sgd") == "sgd" else 0.0
    ours = decay_timescales(log.epochs, weight_decay=optim["weight_decay"], momentum=momentum)
    everywhere = timescales(holdout=holdout)
    here = [found for name, found in everywhere.items() if key(name) == key(row.record.dataset)]
    theirs = here or list(everywhere.values())
    if ours >= min(theirs):
        return []
    ends = dict.fromkeys(f"{end:.2g}" for end in (min(theirs), max(theirs)))
    return [
        f"weight decay renews the weights {ours:.2g} times in a run instead of {' to '.join(ends)}"
    ]


def departures(study: LoadedStudy) -> list[str]:
    """What is switched on in any row, as the page's box lists it."""
    coded = in_order(name for row in study.rows for name in row.record.paper_code)
    found = [f"As the authors’ code does ({name}): {PAPER_CODE[name]}" for name in coded]
    safe = any(row.record.selection == "bn_safe" for row in study.rows)
    found += [BN_SAFE] if safe else []
    clean = any(row.record.holdout_labels == "clean" for row in study.rows)
    found += [CLEAN_HOLDOUT] if clean else []
    plain = any(statistics_augmentation(row) == "off" for row in study.rows)
    found += [STATISTICS_AS_THEY_ARE] if plain else []
    return found + _resized(study)


def statistics_augmentation(row: LoadedRow) -> str:
    """Whether the images that BatchNorm statistics are recomputed from are augmented: on, off."""
    return str((row.config or {}).get("batchnorm_augmentation", "on"))


def _resized(study: LoadedStudy) -> list[str]:
    """How images of another size were brought to the network's, once for each way."""
    found = []
    for row in study.rows:
        data = (row.config or {}).get("data", {})
        if side := data.get("resize"):
            squashed = data.get("resize_how") == "squash"
            way = "both sides scaled" if squashed else "the shorter side scaled, the middle cut out"
            found.append(f"Images are resized to {side}×{side}: {way}.")
    return list(dict.fromkeys(found))
