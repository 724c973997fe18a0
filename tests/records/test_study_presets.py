"""Which of the paper's tables and figures a study is for, recorded or from before it was."""

import json

import pytest
from support.repository import DOCS

from polyak.records.studies import MeasurementRecord, StudyRecord, read_study, write_study
from polyak.study.paper.presets import BEYOND


def recorded_earlier(folder, record):
    """A study's folder as it was written before plan.json had preset and scale."""
    write_study(folder, record)
    path = folder / "plan.json"
    plan = json.loads(path.read_text())
    del plan["preset"], plan["scale"], plan["sha256"]
    path.write_text(json.dumps(plan))


@pytest.mark.parametrize(
    ("name", "preset", "scale"),
    [
        ("table1-paper", "table1", "paper"),
        ("table2-small-controls", "table2", "small"),
        ("table4-small-jpegs", "table4", None),
        ("figure1-tiny", "figure1", "tiny"),
        ("app-e2-tiny", "app-e2", "tiny"),
        ("app-b-tiny-more", "app-b", None),
        ("table3-small-js-temperature-bn-safe", "table3", None),
        # By its name alone nobody could tell.
        ("table1-mine", "table1", None),
        ("table11", None, None),
        ("overhead-tiny", None, "tiny"),
        ("demo", None, None),
        ("mine", None, None),
    ],
)
def test_a_study_from_before_plan_json_said_it_is_what_its_name_begins_with(
    tmp_path, name, preset, scale
):
    recorded_earlier(tmp_path, StudyRecord(name=name, title="", command="", rows=()))
    found = read_study(tmp_path)
    assert (found.preset, found.scale) == (preset, scale)


def test_only_a_study_that_measures_is_the_measurement(tmp_path):
    measured = MeasurementRecord(label="l", dataset="d", architecture="a", run="r")
    record = StudyRecord(name="overhead-tiny", title="", command="", rows=(), measurement=measured)
    recorded_earlier(tmp_path, record)
    assert read_study(tmp_path).preset == "overhead"


@pytest.mark.parametrize(("preset", "scale"), [(None, None), ("table2", "tiny")])
def test_where_plan_json_says_it_the_name_says_nothing(tmp_path, preset, scale):
    record = StudyRecord(
        name="table1-mine", title="", command="", rows=(), preset=preset, scale=scale
    )
    write_study(tmp_path, record)
    assert read_study(tmp_path) == record


def test_the_kept_results_are_studies_of_their_own_or_presets_beyond_the_paper():
    plans = sorted((DOCS / "results").glob("*/plan.json"))
    assert plans
    for path in plans:
        study = read_study(path.parent)
        own = any(word.endswith(".py") for word in study.command.split())
        assert own == (study.preset is None), path.parent.name
        assert own or study.preset in BEYOND, path.parent.name
