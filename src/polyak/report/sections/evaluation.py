"""What an evaluation found, as lines of text: each arm, and how far it is from an SGD."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from polyak.analysis.results import Result, Results
from polyak.analysis.seeds import mean_interval
from polyak.records.vocabulary import BASELINE, Phase
from polyak.report.names import arm_name, ordered
from polyak.report.numbers import counted, number
from polyak.report.tables.cells import difference_cell
from polyak.report.tables.measures import ACCURACY, LOSS, Measure

ANNEALED: Phase = "annealed"
BLOCKS: tuple[tuple[Phase, Phase, str], ...] = (
    ("search", "search", "models of the search"),
    ("held", "held", "the search with its learning rate held"),
    ("refit", "refit", "models of all training data"),
    (ANNEALED, ANNEALED, "the same, annealed in the epochs of EMA (acc.)"),
)
"""Models, whose SGD they are set against, and what the lines are headed by."""
MEASURES = (replace(ACCURACY, digits=1), replace(LOSS, digits=3))


def evaluation_lines(
    label: str, results: Sequence[Result], *, judged: Phase = "refit"
) -> Iterator[str]:
    """A row's arms: means over seeds, and differences from SGD's last weights.

    Differences are paired by seed and have their 95 % interval over seeds.

    Args:
        label: Of the row.
        results: Of one evaluation, for any rows.
        judged: The phase whose models meet the SGD that was annealed early, too.
    """
    found = Results(r for r in results if r.row == label)
    models = next(heading for phase, _, heading in BLOCKS if phase == judged)
    for phase, of, heading in (*BLOCKS, (judged, ANNEALED, f"{models} against SGD annealed early")):
        arms = ordered({r.arm for r in found if r.phase == phase and r.metric == ACCURACY.metric})
        columns = [_Column(found, m, phase, of) for m in MEASURES]
        seeds = len(columns[0].by_seed(of, BASELINE)) if arms else 0
        if not seeds:
            continue
        yield f"{label}: {heading}, {counted(seeds, 'seed')}"
        width = max(20, *(len(arm_name(arm)) for arm in arms))
        yield _line("", [(f"{m.heading}, {m.unit}", "− SGD") for m in MEASURES], width=width)
        for arm in arms:
            yield _line(arm_name(arm), [column.cells(arm) for column in columns], width=width)


@dataclass(frozen=True, slots=True)
class _Column:
    """A measure of the models of a phase, and their distance from the SGD of one."""

    results: Results
    measure: Measure
    phase: Phase
    of: Phase

    def by_seed(self, phase: Phase, arm: str) -> Mapping[str, float]:
        target = next(iter(self.results)).target
        metric = self.measure.metric
        return self.results.by_seed(phase=phase, arm=arm, metric=metric, target=target)

    def cells(self, arm: str) -> tuple[str, str]:
        """Mean and difference."""
        ours, sgd = self.by_seed(self.phase, arm), self.by_seed(self.of, BASELINE)
        digits, scale = self.measure.digits or 0, self.measure.scale
        mean = number(scale * mean_interval(ours.values()).mean, digits)
        if (self.phase, arm) == (self.of, BASELINE) or not ours.keys() & sgd.keys():
            return mean, ""
        cell = difference_cell(ours, sgd, self.measure, digits=digits)
        return mean, f"{cell.text} {cell.spread}".strip()


def _line(name: str, cells: Sequence[tuple[str, str]], *, width: int) -> str:
    columns = "".join(f"{value:>13}  {difference:<25}" for value, difference in cells)
    return f"  {name:<{width}}{columns}".rstrip()
