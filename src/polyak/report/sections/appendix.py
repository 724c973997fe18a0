"""What a page says for one of the paper's appendices: its words, our tables beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polyak.analysis.loaded import LoadedRow, LoadedStudy
from polyak.records.vocabulary import Phase
from polyak.report.figures.chart import Chart
from polyak.report.figures.comparison import Way, compared_chart
from polyak.report.paper.published import numbers_for
from polyak.report.sections.row import RowPart
from polyak.report.tables.comparisons import against_table, base_of
from polyak.report.tables.memorisation import held_table, memorised_table
from polyak.report.tables.table import Table
from polyak.report.tables.variants import variants_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A table with what to know before reading it."""

    heading: str
    text: str
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Appendix:
    """The section that a page for an appendix begins with."""

    letter: str
    papers: tuple[str, ...]
    """What the paper says, with its tables and figures; camera-ready version."""

    blocks: tuple[Block, ...]


_PAPERS: dict[str, tuple[str, ...]] = {
    "app-a": (
        "Figures 1a and A.2: averages are ahead of SGD throughout, peak before the end, and meet "
        "SGD as the learning rate goes to 0.",
        "Figure 3, CIFAR-100 with ResNet-18: with step decay (÷ 5 at epochs 60, 120 and 160 of "
        "200) the average only matches SGD at the end.",
    ),
    "app-b": (
        "Tables 6 to 20: five models for each row, of 80 % and of 100 % of the training images. "
        "Lines called “Val” there are test accuracies of the models of 80 %.",
    ),
    "app-c": (
        "Figure 5, CIFAR-100 with ResNet-18, models of 80 %: SGD at its best hold-out epoch has "
        "75.83 % test accuracy (table 7), bootstrapped with EMA 0.992 after each epoch 74.47 %.",
    ),
    "app-d": (
        "Table 23 and section 3.1: decays d^(1/16) after every step stand for d every 16 steps; "
        "no difference is found.",
    ),
    "app-e1": (
        "Figure 7, CIFAR-100N with ResNet-34: where 90 % of the right labels are learnt, the "
        "average (epoch 99) has memorised 28.8 % of the wrong ones, SGD (epoch 142) 68.2 %; both "
        "reach 100 % at the end.",
    ),
    "app-e2": (
        "Figure 8: with the learning rate held from the average’s best epoch on nothing is "
        "overfitted; overfitting comes with the decay of the learning rate. Its caption names "
        "ResNet-18, the text around it is about CIFAR-100N and ResNet-34, as here.",
    ),
    "app-g": (
        "Table 24, CIFAR-100 with ResNet-18, recomputed statistics at every epoch, the epoch "
        "chosen on the test set: 78.04 ± 0.19 (EMA 0.968, epoch 137), 78.42 ± 0.22 (0.984, 140), "
        "78.81 ± 0.16 (0.992, 152), 79.02 ± 0.19 (0.996, 156), 79.06 ± 0.14 (0.998, 166). Chosen "
        "on the data that they are scored on, they are too high, and no number of ours is made "
        "like them. Its table 8 has 78.54 ± 0.28 for EMA (acc.) chosen without recomputing.",
    ),
}

APPENDICES = tuple(_PAPERS)
"""Presets whose pages begin with such a section."""


def appendix(study: LoadedStudy) -> Appendix | None:
    """The section of the appendix that a study is for; None where it is for none."""
    preset = study.record.preset
    if preset is None or preset not in _PAPERS:
        return None
    letter = preset.removeprefix("app-").upper()
    return Appendix(
        letter=letter[0] + (f".{letter[1]}" if letter[1:] else ""),
        papers=_PAPERS[preset],
        blocks=tuple(_blocks(study, preset)),
    )


def _blocks(study: LoadedStudy, preset: str) -> list[Block]:
    rows = study.rows
    if preset == "app-b":
        halves: tuple[tuple[str, Phase], ...] = (
            ("Models of the search (80 %)", "search"),
            ("Models of all training images (100 %)", "refit"),
        )
        return [
            Block(
                heading=heading,
                text="Every average at the epochs chosen for EMA (acc.) and EMA (loss), statistics "
                "averaged along or recomputed (+ BN); test set, means over seeds. In bold the "
                "longest window with recomputed statistics, fixed beforehand: what the paper’s "
                "tables call EMA. The best line of a table was chosen by looking at the test set "
                "and is no result.",
                table=variants_table(rows, phase),
            )
            for heading, phase in halves
        ]
    if preset == "app-e1":
        published = any(numbers_for(row.record.dataset, row.record.architecture) for row in rows)
        return [
            Block(
                heading="Learning and memorising",
                text="Training images of the search without augmentation, after each epoch. "
                "Memorised: predicted as their wrong label. Read off at the first epoch that "
                "reaches a level, which chooses nothing.",
                table=memorised_table(rows, with_paper=published),
            )
        ]
    if preset == "app-e2":
        return [
            Block(
                heading="After the last epoch",
                text="The same search, with a cosine to 0 and with the learning rate held from the "
                "epoch that was chosen for EMA (acc.). Both train equally long.",
                table=held_table(rows),
            )
        ]
    table = against_table(rows)
    return [Block(heading="Beside each other", text=_AGAINST, table=table)] if table else []


_AGAINST = (
    "Test set, means over seeds; differences are paired by seed. Both trained with the same seeds "
    "and learning rate, and each was stopped where its own hold-out says."
)


def with_comparisons(study: LoadedStudy, parts: Sequence[RowPart]) -> list[RowPart]:
    """The rows' parts with a figure for each comparison that the study is about."""
    found = []
    for row, part in zip(study.rows, parts, strict=True):
        chart = _comparison(study, row, name=f"{part.anchor}-compared")
        found.append(replace(part, charts={**part.charts, "compared": chart}) if chart else part)
    return found


def _comparison(study: LoadedStudy, row: LoadedRow, *, name: str) -> Chart | None:
    """A row beside the one that it varies, or its cosine beside the learning rate held."""
    base, searched = base_of(study.rows, row), row.done("search")
    if base:
        words = row.label.removeprefix(f"{base.label}, ")
        return compared_chart(
            Way(row=base, runs=base.done("search"), words="as it is"),
            Way(row=row, runs=searched, words=words),
            name=name,
            title=f"As it is and {words}",
        )
    if "held" in row.record.follow_ups:
        return compared_chart(
            Way(row=row, runs=searched, words="cosine"),
            Way(row=row, runs=row.done("held"), words="held"),
            name=name,
            title="Cosine to 0, and the learning rate held (the paper’s figure 8)",
        )
    return None
