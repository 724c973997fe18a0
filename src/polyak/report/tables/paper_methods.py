"""The paper's tables whose lines are methods, and the lines that it quotes of other people."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polyak.analysis.loaded import LoadedRow, LoadedStudy
from polyak.records.vocabulary import BASELINE, EMA_ACC_BN, EMA_LOSS_BN
from polyak.report.departures import row_remark
from polyak.report.paper.published import (
    VERSIONS,
    Published,
    key,
    merge_versions,
    numbers_for,
    published,
)
from polyak.report.tables.measures import ACCURACY
from polyak.report.tables.paper_tables import LAYOUTS, CellSpec, by_row, cell_of
from polyak.report.tables.table import Cell, ColumnGroup, PaperCell, PaperLine, PaperTable

NOT_HERE = Cell(text="not in this study", missing=True)
_TRANSFER_ARMS = (
    ("Baseline", BASELINE),
    ("EMA (acc.)", EMA_ACC_BN),
    ("EMA (loss)", EMA_LOSS_BN),
)


def paper_table(study: LoadedStudy) -> PaperTable | None:
    """The table of the paper that a study is for; of several rows without one, table 1.

    Returns:
        None for a study that is no table of the paper and has one row, or refits nothing: models
        of all training data are what stands in table 1.
    """
    preset = study.record.preset
    # Rows that vary another in one respect are none of the paper's.
    study = replace(study, rows=tuple(row for row in study.rows if row.record.against is None))
    if preset == "table2":
        return label_noise(study)
    if preset == "table4":
        return transfer(study)
    if preset == "table3":
        table = by_row(study, LAYOUTS[3])
        return replace(table, lines=(*table.lines, *_codistillation()))
    refitted = any(row.record.refits for row in study.rows)
    if preset in ("table1", "table5") or (preset is None and len(study.rows) > 1 and refitted):
        return by_row(study, LAYOUTS[5 if preset == "table5" else 1])
    return None


def label_noise(study: LoadedStudy) -> PaperTable:
    """Table 2: the leaderboard with our two lines in it."""
    numbers = [p for p in published() if p.table == 2]
    datasets = list(dict.fromkeys(p.dataset for p in numbers))
    ours = {name: _row_of(study, name, numbers[0].architecture) for name in datasets}
    more = [row for row in study.rows if row not in ours.values()]
    lines = []
    for model, arm in dict.fromkeys((p.model, p.arm) for p in numbers):
        spec = CellSpec(table=2, arm=arm, measure=ACCURACY) if arm else None
        cells = [
            _method_cell(ours[name], spec, [p for p in numbers if _is(p, name, model)])
            for name in datasets
        ]
        cells += [_extra_cell(row, spec) for row in more]
        quoted = all(p.quoted for p in numbers if p.model == model)
        remark = {BASELINE: "ours: SGD", EMA_ACC_BN: "ours: EMA (acc.) + BN"}.get(arm, "")
        lines.append(PaperLine(heads=(model,), cells=tuple(cells), remark=remark, quoted=quoted))
    heads = [_head(name, ours[name]) for name in datasets]
    heads += [f"{row.label} ({row_remark(row)})" for row in more]
    return PaperTable(
        number=2,
        title="Label noise",
        caption="Accuracy on right test labels after training with wrong ones (%). The order of "
        "the methods is the paper’s.",
        stubs=("method",),
        groups=(ColumnGroup(heading="test accuracy (%)", columns=tuple(heads)),),
        lines=tuple(lines),
    )


def transfer(study: LoadedStudy) -> PaperTable:
    """Table 4: linear probes on frozen features, one column for each source and target."""
    numbers = [p for p in published() if p.table == 4 and p.phase == "transfer"]
    network = numbers[0].architecture
    columns = [
        _Pair(source, target, _row_of(study, source, network), in_paper=True)
        for source, target in dict.fromkeys((p.dataset, p.target) for p in numbers)
    ]
    ours = {(pair.row.label, key(pair.target)) for pair in columns if pair.row}
    columns += [
        _Pair(row.label, target, row, in_paper=False)
        for row in study.rows
        for target in row.record.transfer
        if (row.label, key(target)) not in ours
    ]
    titles = {key(pair.target): pair.target for pair in reversed(columns)}
    columns.sort(key=lambda pair: list(reversed(titles)).index(key(pair.target)))
    lines = [
        PaperLine(
            heads=(heading,),
            cells=tuple(_probe_cell(arm, pair, numbers) for pair in columns),
        )
        for heading, arm in _TRANSFER_ARMS
    ]
    lines.append(
        PaperLine(
            heads=("Supervised",),
            cells=tuple(_supervised(study, pair, network) for pair in columns),
            remark="training on the target itself",
            quoted=True,
        )
    )
    return PaperTable(
        number=4,
        title="Transfer",
        caption="Accuracy of a linear classifier on frozen features (%). Columns name what the "
        "features were trained on, their headings what the classifier was.",
        stubs=("model",),
        groups=tuple(
            ColumnGroup(
                heading=f"{titles[target]}: linear probe on features of",
                columns=tuple(
                    _head(pair.source, pair.row) for pair in columns if key(pair.target) == target
                ),
            )
            for target in reversed(titles)
        ),
        lines=tuple(lines),
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """A column of table 4."""

    source: str
    target: str
    row: LoadedRow | None
    """Ours, trained on the source."""

    in_paper: bool


def _row_of(study: LoadedStudy, dataset: str, architecture: str) -> LoadedRow | None:
    """The study's row of a data set and a network: a smaller network stands beside no number."""
    wanted = (key(dataset), key(architecture))
    return next(
        (
            row
            for row in study.rows
            if (key(row.record.dataset), key(row.record.architecture)) == wanted
        ),
        None,
    )


def _head(dataset: str, row: LoadedRow | None) -> str:
    remark = row_remark(row) if row else ""
    return f"{dataset} ({remark})" if remark else dataset


def _is(p: Published, dataset: str, model: str) -> bool:
    return (p.dataset, p.model) == (dataset, model)


def _method_cell(
    row: LoadedRow | None,
    spec: CellSpec | None,
    numbers: Sequence[Published],
) -> PaperCell:
    in_order = sorted(numbers, key=lambda p: VERSIONS.index(p.version))
    found = PaperCell(
        paper=merge_versions(in_order), nothing="" if numbers else "none in the paper"
    )
    if spec is None:
        return found
    ours = NOT_HERE if row is None else cell_of(row, spec).ours
    return replace(found, ours=ours)


def _extra_cell(row: LoadedRow, spec: CellSpec | None) -> PaperCell:
    if spec is None:
        return PaperCell(nothing="not quoted for this data")
    return cell_of(row, spec, known=False)


def _probe_cell(arm: str, pair: _Pair, numbers: Sequence[Published]) -> PaperCell:
    row, wanted = pair.row, key(pair.target)
    name = next((t for t in (row.record.transfer if row else ()) if key(t) == wanted), pair.target)
    spec = CellSpec(table=4, arm=arm, measure=ACCURACY, phase="transfer", target=name)
    if not pair.in_paper and row:
        return cell_of(row, spec, known=False)
    here = [p for p in numbers if (p.arm, p.dataset, p.target) == (arm, pair.source, pair.target)]
    return _method_cell(row, spec, here)


def _supervised(study: LoadedStudy, pair: _Pair, network: str) -> PaperCell:
    """Plain training on the target: the paper's, and ours where a row is trained on it."""
    spec = CellSpec(table=1, arm=BASELINE, measure=ACCURACY)
    if not pair.in_paper and pair.row:
        trained = _row_of(study, pair.target, pair.row.record.architecture)
        ours = cell_of(trained, spec).ours if trained else NOT_HERE
        return PaperCell(ours=ours)
    here = [
        p for p in published() if p.model == "Supervised" and key(p.dataset) == key(pair.target)
    ]
    return _method_cell(_row_of(study, pair.target, network), spec, here)


def _codistillation() -> list[PaperLine]:
    """What table 3 quotes, in the columns of its layout."""
    numbers = [p for p in published() if p.table == 3 and p.quoted]
    lines = []
    for dataset, architecture in dict.fromkeys((p.dataset, p.architecture) for p in numbers):
        here = [p for p in numbers_for(dataset, architecture) if p.quoted]
        models = list(dict.fromkeys(p.model for p in here))
        cells = []
        for _, columns in LAYOUTS[3].groups:
            for (_, spec), model in zip(columns, models, strict=True):
                found = [p for p in here if (p.model, p.metric) == (model, spec.measure.metric)]
                nothing = "" if found else "not published"
                cells.append(PaperCell(paper=merge_versions(found), nothing=nothing))
        lines.append(
            PaperLine(
                heads=(dataset, architecture),
                cells=tuple(cells),
                remark="baseline and co-distillation KL",
                quoted=True,
            )
        )
    return lines
