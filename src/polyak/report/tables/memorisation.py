"""What runs on wrong labels have learnt by when: tables from their monitors, epoch by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from polyak.records.runs import Score, run_folder
from polyak.records.studies import RowRecord
from polyak.report.names import average_name
from polyak.report.tables.arms import mean_cell
from polyak.report.tables.comparisons import paired_cell
from polyak.report.tables.table import Cell, Column, Group, Line, Measure, Table, fitted

PAPERS_AVERAGE = "ema_0.992"
"""The one of the paper's figures 5 and 7."""

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the rightly labelled images learnt; the paper's figure 7 reads off 0.9."""

_EPOCH = Measure(metric="epoch", heading="epoch", unit="")
_SHARE = Measure(metric="share", heading="", unit="%", scale=100)
_PAPERS = {"sgd": ("142", "68.2"), PAPERS_AVERAGE: ("99", "28.8")}
"""Epoch and memorised share in percent where 90 % of the right labels are learnt."""

Scores = dict[str, dict[int, Mapping[str, Score]]]
"""Monitor → epoch → weights → score."""


def figures_average(row: RowRecord) -> str:
    """The row's average that stands for the one of the paper's figures."""
    found = dict(zip(row.paper_averages, row.averages, strict=False)).get(PAPERS_AVERAGE)
    return found or row.averages[len(row.averages) // 2]


def memorised_table(rows: Sequence[RowRecord], out: Path, *, with_paper: bool) -> Table:
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
            f"{row.label}; average: {average_name(figures_average(row))}",
            (
                *(_level_line(out, row, level, with_paper) for level in LEVELS),
                _end_line(out, row, with_paper),
            ),
        )
        for row in rows
    ]
    return Table(columns=fitted(columns, groups), groups=tuple(groups))


def _level_line(out: Path, row: RowRecord, level: float, with_paper: bool) -> Line:
    cells, shares = [], []
    for weights in ("sgd", figures_average(row)):
        reached = {
            seed: found
            for seed, run_id in row.chosen_search.items()
            if (found := _reached(_scores(out, run_id), weights, level))
        }
        never = len(row.chosen_search) - len(reached)
        epochs = {seed: float(epoch) for seed, (epoch, _) in reached.items()}
        shares.append({seed: share for seed, (_, share) in reached.items()})
        said = f"{never} of {len(row.chosen_search)} never" if reached else "never learnt so much"
        if never:
            # A mean over those that got there would be of the quick ones only.
            cells += [Cell(text=said, missing=True)] * 2
        else:
            cells += _pair(row, epochs, shares[-1])
    whole = all(len(found) == len(row.chosen_search) for found in shares) and row.chosen_search
    cells.append(paired_cell(shares[1], shares[0], _SHARE, 1) if whole else Cell(text="–"))
    if with_paper:
        cells += [_papers(weights, level) for weights in ("sgd", PAPERS_AVERAGE)]
    return Line(f"{100 * level:.0f} % of the right labels learnt", tuple(cells), level == 0.9)


def _end_line(out: Path, row: RowRecord, with_paper: bool) -> Line:
    cells: list[Cell] = []
    shares = []
    for weights in ("sgd", figures_average(row)):
        shares.append(last_scores(out, row.chosen_search, "train_wrong", weights))
        lengths = {
            seed: float(max(_scores(out, run_id)["train_wrong"]))
            for seed, run_id in row.chosen_search.items()
            if seed in shares[-1]
        }
        cells += _pair(row, lengths, shares[-1])
    cells.append(paired_cell(shares[1], shares[0], _SHARE, 1))
    if with_paper:
        cells += [Cell(published=(("100", "camera-ready", "figure 7"),))] * 2
    return Line("after the last epoch", tuple(cells))


def _pair(row: RowRecord, epochs: Mapping[str, float], shares: Mapping[str, float]) -> list[Cell]:
    nothing = Cell(text="not finished", missing=True)
    return [
        mean_cell(row, epochs, _EPOCH, 1) or nothing,
        mean_cell(row, shares, _SHARE, 1) or nothing,
    ]


def _papers(weights: str, level: float) -> Cell:
    if level != 0.9:
        return Cell()
    epoch, share = _PAPERS[weights]
    return Cell(published=((f"epoch {epoch}: {share}", "camera-ready", "figure 7"),))


def held_table(rows: Sequence[RowRecord], out: Path) -> Table:
    """After the last epoch: the whole cosine, and the learning rate held from EMA's epoch on."""
    asked = (
        ("test", "test accuracy"),
        ("train_clean", "right labels learnt"),
        ("train_wrong", "wrong labels memorised"),
    )
    columns = [
        column
        for _, what in asked
        for column in (
            Column(f"{what}: cosine", "%"),
            Column("held", "%"),
            Column("held against cosine", "points, 95 % interval"),
        )
    ]
    groups = []
    for row in rows:
        lines = []
        for weights in ("sgd", figures_average(row)):
            cells: list[Cell] = []
            for monitor, _ in asked:
                cosine, held = (
                    last_scores(out, runs, monitor, weights)
                    for runs in (row.chosen_search, row.follow_ups.get("held", {}))
                )
                nothing = Cell(text="not finished", missing=True)
                cells += [mean_cell(row, found, _SHARE, 1) or nothing for found in (cosine, held)]
                cells.append(paired_cell(held, cosine, _SHARE, 1))
            name = "SGD" if weights == "sgd" else average_name(weights)
            lines.append(Line(name, tuple(cells)))
        groups.append(Group(row.label, tuple(lines)))
    return Table(columns=fitted(columns, groups), groups=tuple(groups))


def last_scores(out: Path, runs: Mapping[str, str], monitor: str, weights: str) -> dict[str, float]:
    """Accuracy on a monitor after the last epoch, by seed; finished runs only."""
    found = {}
    for seed, run_id in runs.items():
        by_epoch = _scores(out, run_id).get(monitor, {})
        if by_epoch and run_folder(out, run_id).ending == "done":
            found[seed] = by_epoch[max(by_epoch)][weights].accuracy
    return found


def _reached(scores: Scores, weights: str, level: float) -> tuple[int, float] | None:
    """The first epoch at which a share of the right labels is learnt, and what is memorised."""
    for epoch, by_weights in sorted(scores.get("train_clean", {}).items()):
        if by_weights[weights].accuracy >= level:
            return epoch, scores["train_wrong"][epoch][weights].accuracy
    return None


def _scores(out: Path, run_id: str) -> Scores:
    found: Scores = {}
    for record in run_folder(out, run_id).monitors():
        found.setdefault(record.monitor, {})[record.epoch] = record.scores
    return found
