import json
import re
from dataclasses import replace

import pytest

from polyak.records.runs import run_folder
from polyak.records.studies import MeasurementRecord, StudyRecord, write_study
from polyak.records.timings import Timing, Timings, write_timings
from polyak.report import overhead
from polyak.report.page import write_report
from polyak.report.sections.claims import claims_line


def case(averages, every, factor):
    return Timing(
        averages=averages,
        every=every,
        steps_seconds=tuple(factor * s for s in (1.0, 2.0, 1.5, 1.0, 3.0, 1.0)),
        evaluation_seconds=tuple((averages + 1) * 0.1 for _ in range(6)),
        bytes=averages * 2 * 2**20,
    )


TIMINGS = Timings(
    cases=(case(0, None, 1.0), case(5, 1, 1.25), case(5, 16, 1.01)),
    clock="CPU",
    steps=10,
    batch_size=8,
    train_images=80,
    holdout_images=20,
    parameters=500_000,
    environment={"device": "cpu", "threads": 1},
)
MEASURED = MeasurementRecord(
    label="CIFAR-100, ResNet-18", dataset="CIFAR-100", architecture="ResNet-18", run="abc"
)


@pytest.fixture
def page(tmp_path):
    study = StudyRecord(
        name="overhead", title="Cost", command="again", rows=(), measurement=MEASURED
    )

    def write(timings=TIMINGS, measured=MEASURED):
        write_study(tmp_path / "overhead", replace(study, measurement=measured))
        if timings is not None:
            folder = run_folder(tmp_path, "abc")
            write_timings(folder.timings, timings)
            folder.finish("done", seconds=1)
        return write_report(tmp_path, "overhead").read_text(encoding="utf-8")

    return write


def test_each_bank_has_its_medians_ratios_and_storage(page):
    found = {
        line.heading: [c.text + c.spread for c in line.cells] for line in overhead.lines(TIMINGS)
    }
    # Median of the steps 1.25 s by 10, both ends of the interval alike, 6 × 0.1 s of evaluation.
    assert found["no average"][0] == "125.0"
    assert found["5 averages, T = 1"][1] == "1.250[1.250, 1.250]"
    assert found["5 averages, T = 16"][1] == "1.010[1.010, 1.010]"
    assert found["5 averages, T = 16"][2] == "600.0"
    assert [cells[-1] for cells in found.values()] == ["0.00", "10.00", "10.00"]
    text = page()
    for cells in found.values():
        assert all(text.count(f">{cell.split('[')[0]}<") for cell in cells)


def test_the_papers_words_and_its_one_number_stand_beside_ours(page):
    text = page()
    assert "90.43 MB of storage" in text
    # 23,705,252 parameters of four bytes.
    assert "are 90.43 MiB" in text
    assert "+1.0 % [+1.0, +1.0] with T = 16" in text
    assert "+25.0 % [+25.0, +25.0] with T = 1." in text
    assert "The paper publishes no measured times" in text


def test_all_rounds_lie_beside_the_page(page, tmp_path):
    page()
    lines = (tmp_path / "overhead" / "report" / "rounds.csv").read_text().splitlines()
    assert lines[0].startswith("averages,every,round,steps_seconds")
    assert len(lines) == 1 + 3 * 6


def test_another_network_than_the_papers_is_said(page):
    small = replace(MEASURED, architecture="ResNet-8 of width 4")
    assert "The network is ResNet-8 of width 4" in page(measured=small)
    assert "Before you read this" not in page()


def test_few_rounds_have_no_interval_and_the_page_says_so(page):
    few = replace(
        TIMINGS,
        cases=tuple(
            replace(
                c, steps_seconds=c.steps_seconds[:2], evaluation_seconds=c.evaluation_seconds[:2]
            )
            for c in TIMINGS.cases
        ),
    )
    assert "There are 2 rounds; with fewer than 6 a median has no interval" in page(few)


def test_a_measurement_that_is_not_finished_says_so(page):
    assert "The measurement is not finished" in page(None)


def test_its_claims_are_judged_by_rounds_and_all_others_not_run(page, tmp_path):
    html = page()
    assert '<h2 id="claims">' in html
    claims = json.loads((tmp_path / "overhead" / "report" / "claims.json").read_text())["claims"]
    run = {c["id"]: c["findings"] for c in claims if c["verdict"] != "not run"}
    assert run.keys() == {"cost-training", "cost-evaluation"}
    (found,) = run["cost-training"]
    rounds = len(TIMINGS.baseline.steps_seconds)
    assert found["values"].keys() == {str(number) for number in range(1, rounds + 1)}
    assert found["mean"] == pytest.approx(0.01)


def test_an_unfinished_measurement_has_a_ledger_of_claims_not_run(page, tmp_path):
    page(None)
    assert claims_line(tmp_path / "overhead" / "report").startswith("claims: 0 reproduced")


def test_on_a_telephone_each_number_has_its_heading(page):
    (table,) = re.findall(r'<table id="overhead".*?</table>', page(), re.S)
    headings = re.findall(r'<td data-heading="([^"]+)"', table)
    assert headings == 3 * [", ".join(column) for column in overhead.COLUMNS]
