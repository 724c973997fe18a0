"""What an evaluation found, as lines of text: each arm, and how far it is from an SGD."""

from collections.abc import Iterator, Mapping, Sequence

from polyak.analysis.results import Phase, Result
from polyak.analysis.seeds import mean_interval, paired_difference
from polyak.report.names import arm_name, ordered
from polyak.report.numbers import counted, number

BLOCKS: tuple[tuple[Phase, Phase, str], ...] = (
    ("search", "search", "models of the search"),
    ("held", "held", "the search with its learning rate held"),
    ("refit", "refit", "models of all training images"),
    ("annealed", "annealed", "the same, annealed in the epochs of EMA (acc.)"),
    ("refit", "annealed", "models of all training images against SGD annealed so"),
)
"""Models, whose SGD they are set against, and what the lines are headed by."""
COLUMNS = (("accuracy", "accuracy, %", 100.0, 1), ("loss", "loss, nats", 1.0, 3))
"""Metric, heading, factor and decimals."""

BySeed = Mapping[int, float]


def evaluation_lines(label: str, results: Sequence[Result]) -> Iterator[str]:
    """A row's arms: means over seeds, and differences from SGD's last weights.

    Differences are paired by seed and have their 95 % interval over seeds.

    Args:
        label: Of the row.
        results: Of the evaluation, for any rows.
    """
    found = _by_arm(label, results)
    for phase, baseline, heading in BLOCKS:
        arms = ordered({arm for of, arm, _ in found if of == phase})
        if not arms or (baseline, "sgd", "accuracy") not in found:
            continue
        seeds = len(found[baseline, "sgd", "accuracy"])
        yield f"{label}: {heading}, {counted(seeds, 'seed')}"
        yield _line("", [(head, "− SGD") for _, head, *_ in COLUMNS])
        for arm in arms:
            cells = []
            for metric, _, factor, digits in COLUMNS:
                ours, theirs = found[phase, arm, metric], found[baseline, "sgd", metric]
                mean = number(factor * mean_interval(ours.values()).mean, digits)
                same = (phase, arm) == (baseline, "sgd")
                cells.append((mean, "" if same else _difference(ours, theirs, factor, digits)))
            yield _line(arm_name(arm), cells)


def _by_arm(label: str, results: Sequence[Result]) -> dict[tuple[Phase, str, str], BySeed]:
    """Values by seed of each phase, arm and metric that has a column."""
    found: dict[tuple[Phase, str, str], dict[int, float]] = {}
    for r in results:
        if r.row == label and any(r.metric == metric for metric, *_ in COLUMNS):
            found.setdefault((r.phase, r.arm, r.metric), {})[int(r.seed)] = r.value
    return dict(found)


def _difference(ours: BySeed, theirs: BySeed, factor: float, digits: int) -> str:
    if not ours.keys() & theirs.keys():
        return ""
    found = paired_difference(ours, theirs)
    mean = number(factor * found.mean, digits, signed=True)
    if found.low is None or found.high is None:
        return mean
    return f"{mean} [{number(factor * found.low, digits)}, {number(factor * found.high, digits)}]"


def _line(name: str, cells: Sequence[tuple[str, str]]) -> str:
    columns = "".join(f"{value:>13}  {difference:<25}" for value, difference in cells)
    return f"  {name:<20}{columns}".rstrip()
