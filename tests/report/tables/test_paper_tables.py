"""Tables in the paper's form, from results made by hand so that every number is another one."""

import csv
from dataclasses import replace
from importlib.resources import files
from itertools import count

import pytest

from polyak.analysis.loaded import LoadedRun, LoadedStudy, load_recorded_study
from polyak.analysis.results import Result, Results
from polyak.records.studies import StudyRecord
from polyak.report.tables.paper_methods import paper_table
from polyak.report.tables.table import mark

FIVE = (
    ("CIFAR-100", "ResNet-18"),
    ("CIFAR-100", "VGG-16"),
    ("CIFAR-100", "WRN-28-10"),
    ("CIFAR-10", "ResNet-18"),
    ("TinyImageNet", "ResNet-18"),
)
NOISY = (("CIFAR-10N(Worse)", "ResNet-34"), ("CIFAR-100N", "ResNet-34"))
ARMS = ("sgd", "sgd_stopped", "ema_acc_bn", "ema_loss_bn", "swa_bn")
PAIRED = ("churn", "js", "js_paper_code")
SINGLE = ("accuracy", "loss", "ece", "ece_floor", "ece_scaled")
TARGETS = {
    "TinyImageNet": ("CIFAR-10", "CIFAR-100"),
    "CIFAR-100": ("CIFAR-10",),
    "CIFAR-10": ("CIFAR-100",),
}


@pytest.fixture(scope="module")
def make(toy):
    """A study of a preset, with results that no two cells share."""
    out, small = toy
    (loaded,) = load_recorded_study(out, small).rows

    def made(preset, rows):
        records = tuple(
            replace(
                small.rows[0],
                label=f"{dataset}/{architecture}",
                dataset=dataset,
                architecture=architecture,
                transfer=dict.fromkeys(TARGETS.get(dataset, ()), "probe"),
            )
            for dataset, architecture in rows
        )
        record = StudyRecord(name="mine", title="t", command="c", rows=records, preset=preset)
        results = list(results_of(records))
        study = LoadedStudy(
            record=record,
            rows=tuple(
                replace(
                    loaded,
                    record=row,
                    runs={**loaded.runs, "probe": LoadedRun(id="probe")},
                    results=Results(r for r in results if r.row == row.label),
                )
                for row in records
            ),
        )
        return study, results

    return made


def results_of(records):
    serial = count(1)
    for row in records:
        places = [(phase, "test", m) for phase in ("search", "refit") for m in (*SINGLE, *PAIRED)]
        places += [("transfer", target, "accuracy") for target in row.transfer]
        for phase, target, metric in places:
            for arm in ARMS:
                for seed in ("0-1",) if metric in PAIRED else ("0", "1"):
                    shift = 0.0021 if seed == "1" else 0.00013
                    yield Result(
                        row=row.label, phase=phase, target=target, arm=arm, seed=seed,
                        metric=metric, value=next(serial) / 1000 + shift,
                    )  # fmt: skip


def mean_text(results, row, arm, metric, *, phase="refit", target="test", digits=1, scale=100):
    wanted = (row, phase, target, arm, metric)
    found = [r.value for r in results if (r.row, r.phase, r.target, r.arm, r.metric) == wanted]
    assert found
    return f"{scale * sum(found) / len(found):.{digits}f}"


# Written out by hand from the paper's tables: arm, metric, phase, decimals, scale of each column.
COLUMNS = {
    "table1": [
        (arm, metric, "refit", digits, scale)
        for arm in ("sgd", "ema_acc_bn", "ema_loss_bn", "swa_bn")
        for metric, digits, scale in (("accuracy", 1, 100), ("loss", 2, 1))
    ][:7],
    "table3": [
        (arm, metric, "refit", digits, scale)
        for metric, digits, scale in (
            ("accuracy", 1, 100),
            ("churn", 2, 100),
            ("js", 4, 1),
            ("js_paper_code", 3, 1),
        )
        for arm in ("sgd", "ema_loss_bn")
    ],
    "table5": [
        (arm, metric, "search", digits, 100)
        for metric, digits in (("accuracy", 1), ("ece", 2), ("ece_scaled", 2))
        for arm in ("sgd_stopped", "ema_loss_bn")
    ],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_each_number_of_ours_is_the_mean_of_the_results(make, name):
    study, results = make(name, FIVE)
    form = paper_table(study)
    assert sum(len(group.columns) for group in form.groups) == len(COLUMNS[name])
    for row, line in zip(study.record.rows, form.lines, strict=False):
        assert line.heads == (row.dataset, row.architecture)
        for cell, (arm, metric, phase, digits, scale) in zip(
            line.cells, COLUMNS[name], strict=True
        ):
            expected = mean_text(
                results, row.label, arm, metric, phase=phase, digits=digits, scale=scale
            )
            assert cell.ours.text == expected


def test_leaderboard_has_our_two_lines_in_it(make):
    study, results = make("table2", NOISY)
    form = paper_table(study)
    assert len(form.lines) == 13
    for line in form.lines:
        arm = {"EMA(acc)": "ema_acc_bn", "CE(standard)": "sgd"}.get(line.heads[0])
        for cell, row in zip(line.cells, study.record.rows, strict=True):
            if arm is None:
                assert cell.ours is None
            else:
                assert cell.ours.text == mean_text(results, row.label, arm, "accuracy")
    assert [line.heads[0] for line in form.lines if not line.quoted] == ["EMA(acc)"]


def test_transfer_has_four_pairs_and_supervised(make):
    study, results = make("table4", (FIVE[0], FIVE[3], FIVE[4]))
    form = paper_table(study)
    assert [len(group.columns) for group in form.groups] == [2, 2]
    baseline, acc, loss, supervised = form.lines
    # Tiny-ImageNet and CIFAR-100 to CIFAR-10, then Tiny-ImageNet and CIFAR-10 to CIFAR-100.
    submitted = {
        baseline: ["74.61 ± 0.26", "82.10 ± 0.21", "52.77 ± 0.15", "33.72 ± 1.67"],
        acc: ["78.70 ± 0.45", "84.03 ± 1.07", "57.30 ± 0.39", "37.09 ± 1.06"],
        loss: ["79.13 ± 0.76", "85.02 ± 0.03", "57.78 ± 0.09", "36.09 ± 0.86"],
        supervised: ["95.25 ± 0.11"] * 2 + ["77.63 ± 0.14"] * 2,
    }
    for line, numbers in submitted.items():
        assert [cell.paper[0].text for cell in line.cells] == numbers
    assert acc.cells[0].ours.text == mean_text(
        results, "TinyImageNet/ResNet-18", "ema_acc_bn", "accuracy",
        phase="transfer", target="CIFAR-10",
    )  # fmt: skip
    assert (supervised.quoted, baseline.quoted) == (True, False)
    assert supervised.cells[0].ours.text == mean_text(
        results, "CIFAR-10/ResNet-18", "sgd", "accuracy"
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [("table1", FIVE), ("table2", NOISY), ("table3", FIVE), ("table4", FIVE), ("table5", FIVE)],
)
def test_each_number_of_the_paper_stands_in_the_file_for_its_table(make, name, rows):
    form = paper_table(make(name, rows)[0])
    text = files("polyak.report.paper").joinpath("paper_values.csv").read_text(encoding="utf-8")
    lines = [n for n in csv.DictReader(text.splitlines()) if n["table"] == name[-1]]
    allowed = {float(n["value"]) for n in lines}
    shown = [
        float(entry.text.split(" ")[0])
        for line in form.lines
        for cell in line.cells
        for entry in cell.paper
    ]
    assert len(shown) >= 16
    assert set(shown) <= allowed
    # Every number of the paper's table is somewhere in ours.
    assert set(shown) == allowed


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4", "table5"])
def test_no_place_is_empty_without_a_reason(make, name):
    study, _ = make(name, (*FIVE, ("digits", "ResNet-8")))
    empty = replace(study, rows=tuple(replace(row, results=Results()) for row in study.rows))
    for line in paper_table(empty).lines:
        for cell in line.cells:
            assert (cell.ours and cell.ours.text) or cell.paper or cell.nothing
            if cell.ours:
                assert cell.ours.missing


def test_a_row_that_the_paper_lacks_says_so(make):
    form = paper_table(make("table1", (FIVE[0], ("digits", "ResNet-8")))[0])
    assert form.lines[1].remark == "not a row of the paper"
    assert not any(cell.paper for cell in form.lines[1].cells)


def test_swa_of_another_paper_is_quoted_and_the_authors_own_is_not(make):
    form = paper_table(make("table1", FIVE)[0])
    found = {entry.text: entry.quoted for line in form.lines for entry in line.cells[-1].paper}
    assert {text for text, quoted in found.items() if quoted} == {"74.27", "82.15"}
    assert found["73.28 ± 0.19"] is False


def test_codistillation_is_quoted_below(make):
    form = paper_table(make("table3", FIVE)[0])
    quoted = [line for line in form.lines if line.quoted]
    assert [line.heads for line in quoted] == [
        ("CIFAR-100", "ResNet-56"),
        ("CIFAR-10", "ResNet-56"),
    ]
    texts = [[p.paper[0].text if p.paper else p.nothing for p in line.cells] for line in quoted]
    none = ["not published"] * 4
    assert texts == [
        ["73.26", "76.53", "26.77", "17.09", *none],
        ["93.97", "94.63", "5.72", "4.21", *none],
    ]


@pytest.mark.parametrize(
    ("name", "line", "column", "words"),
    [
        ("table1", 3, 3, "0.17"),
        ("table1", 3, 0, "95.25"),
        ("table1", 1, 4, "72.08"),
        ("table3", 0, 3, "11.69"),
        ("table3", 3, 7, "0.013"),
        ("table3", 4, 6, "Not a Jensen-Shannon divergence"),
        ("table5", 4, 4, "before it has converged"),
        ("table5", 0, 5, "before it has converged"),
        ("table4", 0, 0, "BatchNorm in training mode"),
        ("table2", 9, 0, "look swapped"),
    ],
)
def test_what_the_paper_contradicts_is_marked_in_its_cell(make, name, line, column, words):
    form = paper_table(make(name, NOISY if name == "table2" else FIVE)[0])
    if name == "table2":
        line = next(i for i, at in enumerate(form.lines) if at.heads == ("CE(standard)",))
    (letter,) = {mark(i) for i, note in enumerate(form.notes) if words in note}
    entries = form.lines[line].cells[column].paper
    assert entries
    assert all(letter in form.marks(entry).split(" ") for entry in entries)


def test_the_jensen_shannon_divergence_has_no_twin_in_the_paper(make):
    form = paper_table(make("table3", FIVE)[0])
    for line in form.lines[:5]:
        assert [cell.nothing for cell in line.cells[4:6]] == ["none in the paper"] * 2
        assert not any(cell.paper for cell in line.cells[4:6])


def test_floor_stands_beside_the_calibration_error(make):
    study, results = make("table5", FIVE)
    cell = paper_table(study).lines[0].cells[2]
    floor = mean_text(
        results, study.rows[0].label, "sgd_stopped", "ece_floor", phase="search", digits=2
    )
    assert cell.aside == f"floor {floor}"


def test_one_row_of_no_preset_has_no_form_and_two_rows_have_table_1(make):
    assert paper_table(make(None, FIVE[:1])[0]) is None
    assert paper_table(make(None, FIVE[:2])[0]).number == 1
    assert paper_table(make("figure1", FIVE[:2])[0]) is None
    assert paper_table(make("table1", FIVE[:1])[0]).number == 1


@pytest.mark.parametrize("name", ["table2", "table4"])
def test_a_smaller_network_stands_in_columns_of_its_own(make, name):
    rows = NOISY if name == "table2" else (FIVE[0], FIVE[3], FIVE[4])
    study, _ = make(name, tuple((dataset, "ResNet-8") for dataset, _ in rows))
    form = paper_table(study)
    seen = 0
    for line in form.lines:
        for cell in line.cells:
            if cell.ours and not cell.ours.missing:
                assert not cell.paper
                seen += 1
            if cell.paper and cell.ours:
                assert cell.ours.text == "not in this study"
    heads = [head for group in form.groups for head in group.columns]
    # Two lines of ours for two rows; four lines for four pairs.
    assert (len(heads), seen) == ((4, 4) if name == "table2" else (8, 16))
    assert sum("ours is ResNet-8, no reproduction" in head for head in heads) == len(heads) / 2
