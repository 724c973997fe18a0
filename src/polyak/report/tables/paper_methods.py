"""The paper's tables whose lines are methods, and the lines that it quotes of other people."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polyak.analysis.results import Result
from polyak.records.studies import RowRecord, StudyRecord
from polyak.report.departures import row_remark
from polyak.report.paper.published import VERSIONS, Published, key, numbers_for, printed, published
from polyak.report.tables.paper_tables import ACCURACY, LAYOUTS, Asked, by_row, place, preset_of
from polyak.report.tables.table import Cell, Form, FormGroup, FormLine, Place

NOT_HERE = Cell(text="not in this study", missing=True)
_TRANSFER_ARMS = (
    ("Baseline", "sgd"),
    ("EMA (acc.)", "ema_acc_bn"),
    ("EMA (loss)", "ema_loss_bn"),
)


def paper_form(out: Path, study: StudyRecord, results: Sequence[Result]) -> Form | None:
    """The table of the paper that a study is for; of several rows without one, table 1.

    Args:
        out: The output folder.
        study: Its name says which table, such as table3.
        results: Our numbers.

    Returns:
        None for a study of one row that is no table of the paper.
    """
    preset = preset_of(study.name) or ""
    # Rows that vary another in one respect are none of the paper's.
    study = replace(study, rows=tuple(row for row in study.rows if row.against is None))
    if preset == "table2":
        return label_noise(out, study, results)
    if preset == "table4":
        return transfer(out, study, results)
    if preset == "table3":
        form = by_row(out, study, results, LAYOUTS[3])
        return replace(form, lines=(*form.lines, *_codistillation()))
    if preset in ("table1", "table5") or (not preset and len(study.rows) > 1):
        return by_row(out, study, results, LAYOUTS[5 if preset == "table5" else 1])
    return None


def label_noise(out: Path, study: StudyRecord, results: Sequence[Result]) -> Form:
    """Table 2: the leaderboard with our two lines in it."""
    numbers = [p for p in published() if p.table == 2]
    datasets = list(dict.fromkeys(p.dataset for p in numbers))
    ours = {name: _row_of(study, name, numbers[0].architecture) for name in datasets}
    more = [row for row in study.rows if row not in ours.values()]
    lines = []
    for model, arm in dict.fromkeys((p.model, p.arm) for p in numbers):
        asked = Asked(table=2, arm=arm, measure=ACCURACY) if arm else None
        places = [
            _method_place(
                out, ours[name], results, asked, [p for p in numbers if _is(p, name, model)]
            )
            for name in datasets
        ]
        places += [_extra_place(out, row, results, asked) for row in more]
        quoted = all(p.quoted for p in numbers if p.model == model)
        remark = {"sgd": "ours: SGD", "ema_acc_bn": "ours: EMA (acc.) + BN"}.get(arm, "")
        lines.append(FormLine(heads=(model,), places=tuple(places), remark=remark, quoted=quoted))
    heads = [_head(out, name, ours[name]) for name in datasets]
    heads += [f"{row.label} ({row_remark(out, row)})" for row in more]
    return Form(
        table=2,
        title="Label noise",
        caption="Accuracy on right test labels after training with wrong ones (%). The order of "
        "the methods is the paper’s.",
        stubs=("method",),
        groups=(FormGroup(heading="test accuracy (%)", columns=tuple(heads)),),
        lines=tuple(lines),
    )


def transfer(out: Path, study: StudyRecord, results: Sequence[Result]) -> Form:
    """Table 4: linear probes on frozen features, one column for each source and target."""
    numbers = [p for p in published() if p.table == 4 and p.phase == "transfer"]
    network = numbers[0].architecture
    columns = [
        _Pair(source, target, _row_of(study, source, network), in_paper=True)
        for source, target in dict.fromkeys((p.dataset, p.target) for p in numbers)
    ]
    known = {(pair.row.label, key(pair.target)) for pair in columns if pair.row}
    columns += [
        _Pair(row.label, target, row, in_paper=False)
        for row in study.rows
        for target in row.transfer
        if (row.label, key(target)) not in known
    ]
    titles = {key(pair.target): pair.target for pair in reversed(columns)}
    columns.sort(key=lambda pair: list(reversed(titles)).index(key(pair.target)))
    lines = [
        FormLine(
            heads=(heading,),
            places=tuple(_probe_place(out, results, arm, pair, numbers) for pair in columns),
        )
        for heading, arm in _TRANSFER_ARMS
    ]
    lines.append(
        FormLine(
            heads=("Supervised",),
            places=tuple(_supervised(out, study, results, pair, network) for pair in columns),
            remark="training on the target itself",
            quoted=True,
        )
    )
    return Form(
        table=4,
        title="Transfer",
        caption="Accuracy of a linear classifier on frozen features (%). Columns name what the "
        "features were trained on, their headings what the classifier was.",
        stubs=("model",),
        groups=tuple(
            FormGroup(
                heading=f"{titles[target]}: linear probe on features of",
                columns=tuple(
                    _head(out, pair.source, pair.row)
                    for pair in columns
                    if key(pair.target) == target
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
    row: RowRecord | None
    """Ours, trained on the source."""

    in_paper: bool


def _row_of(study: StudyRecord, dataset: str, architecture: str) -> RowRecord | None:
    """The study's row of a data set and a network: a smaller network stands beside no number."""
    wanted = (key(dataset), key(architecture))
    return next((r for r in study.rows if (key(r.dataset), key(r.architecture)) == wanted), None)


def _head(out: Path, dataset: str, row: RowRecord | None) -> str:
    remark = row_remark(out, row) if row else ""
    return f"{dataset} ({remark})" if remark else dataset


def _is(p: Published, dataset: str, model: str) -> bool:
    return (p.dataset, p.model) == (dataset, model)


def _method_place(
    out: Path,
    row: RowRecord | None,
    results: Sequence[Result],
    asked: Asked | None,
    numbers: Sequence[Published],
) -> Place:
    in_order = sorted(numbers, key=lambda p: VERSIONS.index(p.version))
    found = Place(paper=printed(in_order), nothing="" if numbers else "none in the paper")
    if asked is None:
        return found
    ours = NOT_HERE if row is None else place(out, row, results, asked).ours
    return replace(found, ours=ours)


def _extra_place(
    out: Path, row: RowRecord, results: Sequence[Result], asked: Asked | None
) -> Place:
    if asked is None:
        return Place(nothing="not quoted for this data")
    return place(out, row, results, asked, known=False)


def _probe_place(
    out: Path, results: Sequence[Result], arm: str, pair: _Pair, numbers: Sequence[Published]
) -> Place:
    row, wanted = pair.row, key(pair.target)
    name = next((t for t in (row.transfer if row else ()) if key(t) == wanted), pair.target)
    asked = Asked(table=4, arm=arm, measure=ACCURACY, phase="transfer", target=name)
    if not pair.in_paper and row:
        return place(out, row, results, asked, known=False)
    here = [p for p in numbers if (p.arm, p.dataset, p.target) == (arm, pair.source, pair.target)]
    return _method_place(out, row, results, asked, here)


def _supervised(
    out: Path, study: StudyRecord, results: Sequence[Result], pair: _Pair, network: str
) -> Place:
    """Plain training on the target: the paper's, and ours where a row is trained on it."""
    asked = Asked(table=1, arm="sgd", measure=ACCURACY)
    if not pair.in_paper and pair.row:
        trained = _row_of(study, pair.target, pair.row.architecture)
        ours = place(out, trained, results, asked).ours if trained else NOT_HERE
        return Place(ours=ours)
    here = [
        p for p in published() if p.model == "Supervised" and key(p.dataset) == key(pair.target)
    ]
    return _method_place(out, _row_of(study, pair.target, network), results, asked, here)


def _codistillation() -> list[FormLine]:
    """What table 3 quotes, in the columns of its layout."""
    numbers = [p for p in published() if p.table == 3 and p.quoted]
    lines = []
    for dataset, architecture in dict.fromkeys((p.dataset, p.architecture) for p in numbers):
        here = [p for p in numbers_for(dataset, architecture) if p.quoted]
        models = list(dict.fromkeys(p.model for p in here))
        places = []
        for _, columns in LAYOUTS[3].groups:
            for (_, asked), model in zip(columns, models, strict=True):
                found = [p for p in here if (p.model, p.metric) == (model, asked.measure.metric)]
                nothing = "" if found else "not published"
                places.append(Place(paper=printed(found), nothing=nothing))
        lines.append(
            FormLine(
                heads=(dataset, architecture),
                places=tuple(places),
                remark="baseline and co-distillation KL",
                quoted=True,
            )
        )
    return lines
