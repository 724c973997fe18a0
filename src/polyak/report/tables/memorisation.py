"""What runs on wrong labels have learnt by when: tables from their logs, epoch by epoch."""

from collections.abc import Mapping, Sequence

from polyak.analysis.loaded import LoadedRow, LoadedRun, RunLog
from polyak.records.studies import RowRecord
from polyak.records.vocabulary import BASELINE
from polyak.report.names import average_name
from polyak.report.tables.cells import NOTHING, difference_cell, mean_cell
from polyak.report.tables.measures import EPOCH, SHARE
from polyak.report.tables.table import Cell, Column, Group, Line, Table, fit_columns

PAPERS_AVERAGE = "ema_0.992"
"""The one of the paper's figures 5 and 7."""

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the rightly labelled images learnt; the paper's figure 7 reads off 0.9."""

_PAPERS = {BASELINE: ("142", "68.2"), PAPERS_AVERAGE: ("99", "28.8")}
"""Epoch and memorised share in percent where 90 % of the right labels are learnt."""

_NOT_FINISHED = Cell(text="not finished", missing=True)


def figures_average(row: RowRecord) -> str:
    """The row's average that stands for the one of the paper's figures."""
    found = dict(zip(row.paper_averages, row.averages, strict=False)).get(PAPERS_AVERAGE)
    return found or row.averages[len(row.averages) // 2]


def memorised_table(rows: Sequence[LoadedRow], *, with_paper: bool) -> Table:
    """Wrong labels memorised by the first epoch at which a share of the right ones is learnt."""
    columns = [
        Column("SGD: epoch"),
        Column("memorised", "%"),
        Column("average: epoch"),
        Column("memorised", "%"),
        Column("average against SGD", "points, 95 % interval"),
    ]
    if with_paper:
        columns += [
            Column("paper, SGD: epoch, memorised", "%, figure 7", paper=True),
            Column("paper, EMA 0.992: epoch, memorised", "%, figure 7", paper=True),
        ]
    groups = [
        Group(
            f"{row.label}; average: {average_name(figures_average(row.record))}",
            (
                *(_level_line(row, level, with_paper=with_paper) for level in LEVELS),
                _end_line(row, with_paper=with_paper),
            ),
        )
        for row in rows
    ]
    return Table(columns=fit_columns(columns, groups), groups=tuple(groups))


def _level_line(row: LoadedRow, level: float, *, with_paper: bool) -> Line:
    cells, shares = [], []
    searched = row.of("search")
    for weights in (BASELINE, figures_average(row.record)):
        reached = {
            seed: found
            for seed, run in searched.items()
            if (found := _reached(run.log, weights, level))
        }
        never = len(searched) - len(reached)
        epochs = {seed: float(epoch) for seed, (epoch, _) in reached.items()}
        shares.append({seed: share for seed, (_, share) in reached.items()})
        said = f"{never} of {len(searched)} never" if reached else "never learnt so much"
        if never:
            # A mean over those that got there would be of the quick ones only.
            cells += [Cell(text=said, missing=True)] * 2
        else:
            cells += _pair(row, epochs, shares[-1])
    whole = searched and all(len(found) == len(searched) for found in shares)
    cells.append(_difference(shares[1], shares[0]) if whole else NOTHING)
    if with_paper:
        cells += [_papers(weights, level) for weights in (BASELINE, PAPERS_AVERAGE)]
    return Line(f"{100 * level:.0f} % of the right labels learnt", tuple(cells), level == 0.9)


def _end_line(row: LoadedRow, *, with_paper: bool) -> Line:
    cells: list[Cell] = []
    shares = []
    for weights in (BASELINE, figures_average(row.record)):
        shares.append(last_scores(row.of("search"), "train_wrong", weights))
        lengths = {
            seed: float(max(run.log.part("train_wrong")))
            for seed, run in row.of("search").items()
            if seed in shares[-1]
        }
        cells += _pair(row, lengths, shares[-1])
    cells.append(_difference(shares[1], shares[0]))
    if with_paper:
        cells += [Cell(published=(("100", "camera-ready", "figure 7"),))] * 2
    return Line("after the last epoch", tuple(cells))


def _pair(row: LoadedRow, epochs: Mapping[str, float], shares: Mapping[str, float]) -> list[Cell]:
    return [
        mean_cell(row, epochs, EPOCH) or _NOT_FINISHED,
        mean_cell(row, shares, SHARE) or _NOT_FINISHED,
    ]


def _difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Cell:
    return difference_cell(ours, theirs, SHARE, digits=1)


def _papers(weights: str, level: float) -> Cell:
    if level != 0.9:
        return Cell()
    epoch, share = _PAPERS[weights]
    return Cell(published=((f"epoch {epoch}: {share}", "camera-ready", "figure 7"),))


def held_table(rows: Sequence[LoadedRow]) -> Table:
    """After the last epoch: the whole cosine, and the learning rate held from EMA's epoch on."""
    monitors = {
        "test": "test accuracy",
        "train_clean": "right labels learnt",
        "train_wrong": "wrong labels memorised",
    }
    columns = [
        column
        for what in monitors.values()
        for column in (
            Column(f"{what}: cosine", "%"),
            Column("held", "%"),
            Column("held against cosine", "points, 95 % interval"),
        )
    ]
    groups = []
    for row in rows:
        lines = []
        for weights in (BASELINE, figures_average(row.record)):
            cells: list[Cell] = []
            for monitor in monitors:
                cosine, held = (
                    last_scores(runs, monitor, weights)
                    for runs in (row.of("search"), row.of("held"))
                )
                cells += [mean_cell(row, found, SHARE) or _NOT_FINISHED for found in (cosine, held)]
                cells.append(_difference(held, cosine))
            name = "SGD" if weights == BASELINE else average_name(weights)
            lines.append(Line(name, tuple(cells)))
        groups.append(Group(row.label, tuple(lines)))
    return Table(columns=fit_columns(columns, groups), groups=tuple(groups))


def last_scores(runs: Mapping[str, LoadedRun], monitor: str, weights: str) -> dict[str, float]:
    """Accuracy on a monitor after the last epoch, by seed; finished runs only."""
    found = {}
    for seed, run in runs.items():
        by_epoch = run.log.part(monitor)
        if by_epoch and run.done:
            found[seed] = by_epoch[max(by_epoch)][weights].accuracy
    return found


def _reached(log: RunLog, weights: str, level: float) -> tuple[int, float] | None:
    """The first epoch at which a share of the right labels is learnt, and what is memorised."""
    for epoch, by_weights in sorted(log.part("train_clean").items()):
        if by_weights[weights].accuracy >= level:
            return epoch, log.part("train_wrong")[epoch][weights].accuracy
    return None
