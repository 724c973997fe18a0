"""Tables of two ways to train, seed by seed: a row and the one that it varies, two budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyak.analysis.results import Phase, Result, values
from polyak.analysis.seeds import mean_interval, paired_difference
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord
from polyak.report.facts import images_in_test, reason
from polyak.report.names import arm_name
from polyak.report.numbers import accuracy_digits, number
from polyak.report.tables.arms import ACCURACY, LOSS, mean_cell
from polyak.report.tables.table import Cell, Column, Group, Line, Measure, Table, fitted

_ARMS = ("sgd", "sgd_stopped", "ema_acc", "ema_acc_bn", "ema_loss", "ema_loss_bn")
_MEASURES = (ACCURACY, LOSS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two things that are compared."""

    row: RowRecord
    phase: Phase
    arm: str

    def numbers(self, results: Sequence[Result], metric: str) -> dict[str, float]:
        """By seed."""
        return values(results, row=self.row.label, arm=self.arm, metric=metric, phase=self.phase)


def base_of(rows: Sequence[RowRecord], row: RowRecord) -> RowRecord | None:
    """The row that another varies."""
    return next((other for other in rows if other.label == row.against), None)


def against_table(out: Path, rows: Sequence[RowRecord], results: Sequence[Result]) -> Table | None:
    """Every row that varies another beside that other; None where there is none."""
    pairs = [(base, row) for row in rows if (base := base_of(rows, row))]
    columns = []
    for m in _MEASURES:
        unit = "points" if m.unit == "%" else m.unit
        columns += [
            Column(f"{m.heading}, as it is", m.unit),
            Column(f"{m.heading}, varied", m.unit),
            Column("varied against as it is", f"{unit}, 95 % interval"),
        ]
    groups = [
        Group(row.label, tuple(_against_line(out, base, row, results, arm) for arm in _ARMS))
        for base, row in pairs
    ]
    return Table(columns=fitted(columns, groups), groups=tuple(groups)) if pairs else None


def _against_line(
    out: Path, base: RowRecord, row: RowRecord, results: Sequence[Result], arm: str
) -> Line:
    phase: Phase = "refit" if base.refits and row.refits else "search"
    sides = [Side(row=side, phase=phase, arm=arm) for side in (base, row)]
    cells = []
    for m in _MEASURES:
        cells += [number_cell(out, side, results, m) for side in sides]
        cells.append(difference_cell(out, sides[1], sides[0], results, m))
    return Line(arm_name(arm), tuple(cells), arm in ("sgd", "ema_acc_bn"))


def budget_table(out: Path, rows: Sequence[RowRecord], results: Sequence[Result]) -> Table | None:
    """SGD annealed in the average's budget beside both; None where no row has such a run."""
    wanted = [row for row in rows if "annealed" in row.follow_ups]
    columns = [Column("epochs trained")]
    for m in _MEASURES:
        unit = "points" if m.unit == "%" else m.unit
        columns += [
            Column(m.heading, m.unit),
            Column("against SGD annealed early", f"{unit}, 95 % interval"),
        ]
    groups = [Group(row.label, _budget_lines(out, row, results)) for row in wanted]
    return Table(columns=fitted(columns, groups), groups=tuple(groups)) if wanted else None


def _budget_lines(out: Path, row: RowRecord, results: Sequence[Result]) -> tuple[Line, ...]:
    full, short = row.refit, row.follow_ups["annealed"]
    yardstick = Side(row=row, phase="annealed", arm="sgd")
    asked: tuple[tuple[str, Phase, str, Mapping[str, int]], ...] = (
        ("SGD, whole schedule", "refit", "sgd", _lengths(out, full)),
        ("SGD at EMA’s epoch, whole schedule", "refit", "sgd_at_ema", _stops(out, full)),
        ("EMA (acc.) + BN, whole schedule", "refit", "ema_acc_bn", _stops(out, full)),
        ("SGD annealed early", "annealed", "sgd", _lengths(out, short)),
        ("EMA (acc.) + BN, annealed early", "annealed", "ema_acc_bn", _stops(out, short)),
    )
    lines = []
    for label, phase, arm, epochs in asked:
        side = Side(row=row, phase=phase, arm=arm)
        cells = [_epochs_cell(out, row, phase, epochs)]
        for m in _MEASURES:
            cells.append(number_cell(out, side, results, m))
            cells.append(
                Cell(text="–")
                if side == yardstick
                else difference_cell(out, side, yardstick, results, m)
            )
        lines.append(
            Line(
                label, tuple(cells), (phase, arm) in (("annealed", "sgd"), ("refit", "ema_acc_bn"))
            )
        )
    return tuple(lines)


def number_cell(out: Path, side: Side, results: Sequence[Result], m: Measure) -> Cell:
    """A mean over seeds, or why there is none."""
    found = mean_cell(side.row, side.numbers(results, m.metric), m, _digits(out, side.row, m))
    return found or Cell(text=reason(out, side.row, side.phase), missing=True)


def difference_cell(
    out: Path, ours: Side, theirs: Side, results: Sequence[Result], m: Measure
) -> Cell:
    """Ours − theirs, paired by seed, with its interval."""
    digits = _digits(out, ours.row, m)
    sides = (ours.numbers(results, m.metric), theirs.numbers(results, m.metric))
    return paired_cell(*sides, m, digits)


def paired_cell(
    ours: Mapping[str, float], theirs: Mapping[str, float], m: Measure, digits: int
) -> Cell:
    """The same from numbers by seed."""
    if not ours.keys() & theirs.keys():
        return Cell(text="–")
    interval = paired_difference(*({int(s): v for s, v in x.items()} for x in (ours, theirs)))
    text = number(m.scale * interval.mean, digits, signed=True)
    if interval.low is None or interval.high is None:
        return Cell(text=text)
    low, high = (number(m.scale * end, digits) for end in (interval.low, interval.high))
    return Cell(text=text, spread=f"[{low}, {high}]")


def _digits(out: Path, row: RowRecord, m: Measure) -> int:
    return accuracy_digits(images_in_test(out, row) or 0) if m.digits is None else m.digits


def _lengths(out: Path, runs: Mapping[str, str]) -> dict[str, int]:
    """Epochs of each seed's run."""
    return {
        seed: int(run_folder(out, run_id).config()["epochs"])
        for seed, run_id in runs.items()
        if run_folder(out, run_id).ending == "done"
    }


def _stops(out: Path, runs: Mapping[str, str]) -> dict[str, int]:
    """Epoch of EMA (acc.) in each seed's run."""
    found: dict[str, int] = {}
    for seed, run_id in runs.items():
        folder = run_folder(out, run_id)
        stops = folder.config().get("stops", ()) if folder.ending == "done" else ()
        epochs = [int(stop["epoch"]) for stop in stops if stop["rule"] == "acc"]
        if epochs:
            found[seed] = epochs[0]
    return found


def _epochs_cell(out: Path, row: RowRecord, phase: Phase, epochs: Mapping[str, int]) -> Cell:
    if not epochs:
        return Cell(text=reason(out, row, phase), missing=True)
    low, high = min(epochs.values()), max(epochs.values())
    mean = number(mean_interval(epochs.values()).mean, 1 if low < high else 0)
    return Cell(text=mean, spread=f"{low} – {high}" if low < high else "")
