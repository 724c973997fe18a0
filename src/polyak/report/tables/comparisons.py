"""Tables of two ways to train, seed by seed: a row and the one that it varies, two budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyak.analysis.loaded import LoadedRow, LoadedRun
from polyak.analysis.seeds import mean_interval
from polyak.records.vocabulary import (
    BASELINE,
    EMA_ACC,
    EMA_ACC_BN,
    EMA_LOSS,
    EMA_LOSS_BN,
    SGD_AT_EMA,
    SGD_BN,
    SGD_STOPPED,
    Phase,
)
from polyak.report.names import arm_name
from polyak.report.numbers import number
from polyak.report.tables.cells import (
    NOTHING,
    difference_cell,
    digits_for,
    mean_cell,
    missing_cell,
)
from polyak.report.tables.measures import ACCURACY, LOSS, Measure
from polyak.report.tables.table import Cell, Column, Group, Line, Table, fit_columns

_ARMS = (BASELINE, SGD_STOPPED, EMA_ACC, EMA_ACC_BN, EMA_LOSS, EMA_LOSS_BN)
_MEASURES = (ACCURACY, LOSS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two things that are compared."""

    row: LoadedRow
    phase: Phase
    arm: str

    def by_seed(self, measure: Measure) -> Mapping[str, float]:
        """Its numbers."""
        return self.row.results.by_seed(phase=self.phase, arm=self.arm, metric=measure.metric)

    def cell(self, measure: Measure) -> Cell:
        """A mean over seeds, or why there is none."""
        found = mean_cell(self.row, self.by_seed(measure), measure)
        return found or missing_cell(self.row, self.phase)

    def against(self, other: "Side", measure: Measure) -> Cell:
        """How far it is from another, paired by seed."""
        digits = digits_for(self.row, measure)
        return difference_cell(
            self.by_seed(measure), other.by_seed(measure), measure, digits=digits
        )


def base_of(rows: Sequence[LoadedRow], row: LoadedRow) -> LoadedRow | None:
    """The row that another varies."""
    return next((other for other in rows if other.label == row.record.against), None)


def against_table(rows: Sequence[LoadedRow]) -> Table | None:
    """Every row that varies another beside that other; None where there is none."""
    pairs = [(base, row) for row in rows if (base := base_of(rows, row))]
    columns = []
    for m in _MEASURES:
        columns += [
            Column(f"{m.heading}, as it is", m.unit),
            Column(f"{m.heading}, varied", m.unit),
            Column("varied against as it is", f"{m.difference_unit}, 95 % interval"),
        ]
    groups = [
        Group(row.label, tuple(_against_line(base, row, arm) for arm in _ARMS))
        for base, row in pairs
    ]
    return Table(columns=fit_columns(columns, groups), groups=tuple(groups)) if pairs else None


def _against_line(base: LoadedRow, row: LoadedRow, arm: str) -> Line:
    phase: Phase = "refit" if base.record.refits and row.record.refits else "search"
    as_it_is, varied = (Side(row=side, phase=phase, arm=arm) for side in (base, row))
    cells = []
    for m in _MEASURES:
        cells += [as_it_is.cell(m), varied.cell(m), varied.against(as_it_is, m)]
    return Line(arm_name(arm), tuple(cells), arm in (BASELINE, EMA_ACC_BN))


def budget_table(rows: Sequence[LoadedRow]) -> Table | None:
    """SGD annealed in the average's budget beside both; None where no row has such a run."""
    wanted = [row for row in rows if "annealed" in row.record.follow_ups]
    columns = [Column("epochs trained")]
    for m in _MEASURES:
        columns += [
            Column(m.heading, m.unit),
            Column("against SGD annealed early", f"{m.difference_unit}, 95 % interval"),
        ]
    groups = [Group(row.label, _budget_lines(row)) for row in wanted]
    return Table(columns=fit_columns(columns, groups), groups=tuple(groups)) if wanted else None


def _budget_lines(row: LoadedRow) -> tuple[Line, ...]:
    whole = row.record.judged
    full, short = row.done(whole), row.done("annealed")
    stops = _stops(full) if row.record.refits else _chosen(row)
    yardstick = Side(row=row, phase="annealed", arm=BASELINE)
    recomputed: list[tuple[str, Phase, str, Mapping[str, int]]] = []
    if row.results.by_seed(phase="annealed", arm=SGD_BN, metric=ACCURACY.metric):
        recomputed = [("SGD annealed early + BN", "annealed", SGD_BN, _lengths(short))]
    wanted: tuple[tuple[str, Phase, str, Mapping[str, int]], ...] = (
        ("SGD, whole schedule", whole, BASELINE, _lengths(full)),
        ("SGD at EMA’s epoch, whole schedule", whole, SGD_AT_EMA, stops),
        ("EMA (acc.) + BN, whole schedule", whole, EMA_ACC_BN, stops),
        ("SGD annealed early", "annealed", BASELINE, _lengths(short)),
        *recomputed,
        ("EMA (acc.) + BN, annealed early", "annealed", EMA_ACC_BN, _stops(short)),
    )
    lines = []
    for label, phase, arm, epochs in wanted:
        side = Side(row=row, phase=phase, arm=arm)
        cells = [_epochs_cell(row, phase, epochs)]
        for m in _MEASURES:
            of_itself = side == yardstick
            cells += [side.cell(m), NOTHING if of_itself else side.against(yardstick, m)]
        emphasis = (phase, arm) in (("annealed", BASELINE), (whole, EMA_ACC_BN))
        lines.append(Line(label, tuple(cells), emphasis))
    return tuple(lines)


def _lengths(runs: Mapping[str, LoadedRun]) -> dict[str, int]:
    """Epochs of each seed's run."""
    return {seed: int(run.config["epochs"]) for seed, run in runs.items() if run.config}


def _stops(runs: Mapping[str, LoadedRun]) -> dict[str, int]:
    """Epoch of EMA (acc.) in each seed's run."""
    found: dict[str, int] = {}
    for seed, run in runs.items():
        stops = (run.config or {}).get("stops", ())
        epochs = [int(stop["epoch"]) for stop in stops if stop["rule"] == "acc"]
        if epochs:
            found[seed] = epochs[0]
    return found


def _chosen(row: LoadedRow) -> dict[str, int]:
    """Epoch of EMA (acc.) that each seed's search chose."""
    stops = row.record.stops.items()
    return {seed: stop.epoch for seed, of_seed in stops for stop in of_seed if stop.rule == "acc"}


def _epochs_cell(row: LoadedRow, phase: Phase, epochs: Mapping[str, int]) -> Cell:
    if not epochs:
        # A shortened search chooses its own epochs, which the study's record does not have.
        chose = bool(row.done(phase)) and not row.record.refits
        return NOTHING if chose else missing_cell(row, phase)
    low, high = min(epochs.values()), max(epochs.values())
    mean = number(mean_interval(epochs.values()).mean, 1 if low < high else 0)
    return Cell(text=mean, spread=f"{low} – {high}" if low < high else "")
