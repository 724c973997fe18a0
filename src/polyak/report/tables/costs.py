"""What each average costs beside training: hold-out evaluations, and settings chosen by them."""

from collections.abc import Sequence

from polyak.analysis.loaded import LoadedRow
from polyak.records.vocabulary import BASELINE, EMA_ACC_BN, EMA_LOSS_BN, SGD_STOPPED
from polyak.report.names import MORE_ARMS, arm_name
from polyak.report.tables.arms import arms_in
from polyak.report.tables.table import Cell, Column, Group, Line, Table

_SETTINGS = {
    "swa": "start: half of the run; a snapshot an epoch",
    "tail": "start: three quarters of the run",
    "lawa": "six snapshots, an epoch apart",
    "power": "width: a tenth of the run",
    "window_1": "mean age: 1 % of the run",
    "window_7": "mean age: 6.7 % of the run",
    "window_10": "mean age: 10 % of the run",
    "swad": "patience 3, tolerance 6, ratio 1.3",
}
"""Of averages that are no EMA of the bank, fixed before the run."""
_LONGEST = "decay: the longest of the bank"


def cost_table(rows: Sequence[LoadedRow]) -> Table | None:
    """Of the models of all training data; None where only one kind of average was kept."""
    wanted = [row for row in rows if MORE_ARMS.keys() & {r.arm for r in row.results}]
    groups = tuple(
        Group(row.label, tuple(_line(row, arm) for arm in arms_in([row], "refit")))
        for row in wanted
        if row.record.refits
    )
    columns = (
        Column("evaluations", "of the hold-out, a search"),
        Column("chosen on it"),
        Column("fixed beforehand"),
    )
    return Table(columns=columns, groups=groups) if groups else None


def _line(row: LoadedRow, arm: str) -> Line:
    evaluated, chosen, fixed = cost_of(
        arm,
        epochs=int((row.config or {}).get("epochs", 0)),
        averages=len(row.record.averages),
        longest=row.record.selection != "bn_safe",
    )
    return Line(
        arm_name(arm), (Cell(text=str(evaluated)), Cell(text=chosen), Cell(text=fixed or "–"))
    )


def cost_of(arm: str, *, epochs: int, averages: int, longest: bool = True) -> tuple[int, str, str]:
    """Evaluations of a run's hold-out, what was chosen by them, and what was fixed instead.

    Args:
        arm: As records call it.
        epochs: Of a run; each ends with an evaluation.
        averages: In the bank; those that are still equal are evaluated once and counted each.
        longest: Whether arms with recomputed statistics take the longest window whatever the
            hold-out says.

    Example:
        >>> cost_of("swa_bn", epochs=25, averages=5)
        (0, 'nothing', 'start: half of the run; a snapshot an epoch')
        >>> cost_of("ema_acc", epochs=25, averages=5)
        (125, 'decay and epoch', '')
    """
    name = arm.removesuffix("_bn")
    if name == BASELINE:
        return 0, "nothing", ""
    if name in _SETTINGS:
        of_sgd = (epochs, "first and last epoch") if name == "swad" else (0, "nothing")
        return (*of_sgd, _SETTINGS[name])
    if name == SGD_STOPPED:
        return epochs, "epoch", ""
    bank = epochs * averages
    if arm in (EMA_ACC_BN, EMA_LOSS_BN):
        return (bank, "epoch", _LONGEST) if longest else (bank, "decay and epoch", "")
    kind = name.removesuffix("_acc").removesuffix("_loss")
    if kind in _SETTINGS:
        return bank, "epoch, the EMA’s", _SETTINGS[kind]
    return bank, "decay and epoch" if name.startswith("ema_") else "epoch, the EMA’s", ""
