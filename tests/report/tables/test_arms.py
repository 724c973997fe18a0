from dataclasses import replace

import pytest
from support.slow_results import values

from polyak.analysis.loaded import load_recorded_study
from polyak.analysis.seeds import mean_interval, paired_difference
from polyak.report.names import ARMS
from polyak.report.paper.published import Published
from polyak.report.tables.arms import ArmTableSpec, arm_table, arms_in
from polyak.report.tables.cells import paper_cell
from polyak.report.tables.measures import ACCURACY, CHURN, ECE, LOSS


def as_number(text: str) -> float:
    return float(text.replace("−", "-"))


@pytest.fixture(scope="module")
def study(toy):
    return load_recorded_study(*toy)


@pytest.fixture(scope="module")
def results(study):
    return study.results


@pytest.mark.parametrize("phase", ["search", "refit"])
@pytest.mark.parametrize("measure", [ACCURACY, LOSS, ECE])
def test_every_number_is_the_mean_over_seeds_of_the_results(study, results, phase, measure):
    arms = tuple(arms_in(study.rows, phase))
    assert len(arms) == 7
    spec = ArmTableSpec(phase=phase, measures=(measure,), arms=arms)
    table = arm_table(study.rows, spec)
    for arm, line in zip(arms, table.groups[0].lines, strict=True):
        assert line.label == ARMS[arm][0]
        found = values(results, row="toy row", arm=arm, metric=measure.metric, phase=phase)
        interval = mean_interval(found.values())
        digits = 1 if measure.digits is None else measure.digits
        assert line.cells[0].text == f"{measure.scale * interval.mean:.{digits}f}"
        assert line.cells[0].spread == f"± {measure.scale * interval.sd:.{digits}f}"


def test_differences_are_paired_by_seed(study, results):
    spec = ArmTableSpec(
        phase="refit", measures=(ACCURACY,), arms=("sgd", "ema_acc_bn"), differences=True
    )
    sgd, ema = arm_table(study.rows, spec).groups[0].lines
    sides = [
        {
            int(s): v
            for s, v in values(
                results, row="toy row", arm=arm, metric="accuracy", phase="refit"
            ).items()
        }
        for arm in ("ema_acc_bn", "sgd")
    ]
    expected = paired_difference(*sides)
    assert sgd.cells[1].text == "–"
    assert as_number(ema.cells[1].text) == pytest.approx(100 * expected.mean, abs=0.05)
    low, high = ema.cells[1].spread.strip("[]").split(", ")
    assert as_number(low) == pytest.approx(100 * expected.low, abs=0.051)
    assert as_number(high) == pytest.approx(100 * expected.high, abs=0.051)


def test_pairs_have_a_range_and_no_deviation(study, results):
    spec = ArmTableSpec(phase="refit", measures=(CHURN,), arms=("sgd",))
    cell = arm_table(study.rows, spec).groups[0].lines[0].cells[0]
    (value,) = values(results, row="toy row", arm="sgd", metric="churn", phase="refit").values()
    assert cell.text == f"{100 * value:.1f}"
    assert "±" not in cell.spread


def test_the_papers_numbers_stand_beside_ours(study, results):
    (row,) = study.rows
    record = replace(row.record, dataset="CIFAR-100", architecture="ResNet-18")
    row = replace(row, record=record)
    spec = ArmTableSpec(
        phase="refit", measures=(ACCURACY,), arms=("sgd", "sgd_stopped", "ema_loss_bn")
    )
    table = arm_table([row], spec)
    assert [column.paper for column in table.columns] == [False, True]
    sgd, stopped, ema = table.groups[0].lines
    assert sgd.cells[1].published == (("77.63 ± 0.14", "both", "table 1"),)
    assert stopped.cells[1].published == ()
    assert [entry[:2] for entry in ema.cells[1].published] == [
        ("78.05", "submitted"),
        ("78.07 ± 0.29", "camera-ready"),
    ]


def test_a_table_without_published_twins_has_no_paper_column(study, results):
    spec = ArmTableSpec(phase="refit", measures=(ACCURACY,), arms=("sgd",))
    table = arm_table(study.rows, spec)
    assert not any(column.paper for column in table.columns)
    assert table.groups[0].notes == ("The paper has no numbers for toy with tiny.",)


def test_columns_leave_room_for_their_widest_spread(study, results):
    spec = ArmTableSpec(phase="refit", measures=(ACCURACY,), arms=tuple(ARMS))
    table = arm_table(study.rows, spec)
    widths = [len(line.cells[0].spread) for line in table.groups[0].lines]
    assert table.columns[0].spread_width == max(widths)


def test_versions_that_differ_are_both_shown():
    twin = Published(
        version="submitted", table=3, dataset="a", architecture="b", phase="refit", target="test",
        model="m", arm="sgd", metric="churn", value=12.71, std=None, note="",
    )  # fmt: skip
    later = replace(twin, version="camera-ready", value=11.69, std=0.3)
    assert paper_cell([twin, later]).published == (
        ("12.71", "submitted", "table 3"),
        ("11.69 ± 0.30", "camera-ready", "table 3"),
    )
    assert paper_cell([]).published == ()
