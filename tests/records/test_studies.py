import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyak.errors import FileError, printable
from polyak.records.checked import read_checked
from polyak.records.studies import (
    MeasurementRecord,
    RowRecord,
    StudyRecord,
    read_study,
    with_row,
    write_study,
)
from polyak.records.vocabulary import Stop


def decided(row: RowRecord) -> RowRecord:
    """The row, its choices among what it searched, and for every seed by the same rules."""
    rates = [*row.seed_learning_rates.values(), row.chosen_learning_rate]
    searched = {f"{rate:g}": {} for rate in rates if rate is not None}
    first = next(iter(row.stops.values()), ())
    return dataclasses.replace(
        row, search={**searched, **row.search}, stops=dict.fromkeys(row.stops, first)
    )


words = st.text(max_size=8).map(printable)
seeds = st.integers(0, 9).map(str)
ids = st.text("0123456789abcdef", min_size=12, max_size=12)
stops = st.builds(
    Stop,
    rule=st.sampled_from(["sgd", "acc", "loss"]),
    epoch=st.integers(1, 200),
    average=st.sampled_from(["sgd", "ema_0.998"]),
)
rows = st.builds(
    RowRecord,
    label=words,
    dataset=words,
    architecture=words,
    seeds=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    learning_rates=st.lists(st.floats(1e-3, 2), max_size=3).map(tuple),
    averages=st.lists(words, max_size=3).map(tuple),
    paper_averages=st.lists(words, max_size=3).map(tuple),
    search=st.dictionaries(words, st.dictionaries(seeds, ids, max_size=2), max_size=2),
    refit=st.dictionaries(seeds, ids, max_size=2),
    transfer=st.dictionaries(words, ids, max_size=2),
    paper_code=st.lists(words, max_size=2).map(tuple),
    selection=st.sampled_from(["paper", "bn_safe"]),
    holdout_labels=st.sampled_from(["given", "clean"]),
    chosen_learning_rate=st.none() | st.floats(1e-3, 2),
    seed_learning_rates=st.dictionaries(seeds, st.floats(1e-3, 2), max_size=2),
    stops=st.dictionaries(seeds, st.lists(stops, max_size=3).map(tuple), max_size=2),
    failure=st.none() | words,
).map(lambda row: decided(row))
studies = st.builds(
    StudyRecord,
    name=words,
    title=words,
    command=words,
    rows=st.lists(rows, max_size=3, unique_by=lambda row: row.label).map(tuple),
    measurement=st.none()
    | st.builds(MeasurementRecord, label=words, dataset=words, architecture=words, run=ids),
    seconds=st.floats(0, 1e6),
    workers=st.integers(1, 64),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("out") / "study"


@given(studies)
def test_a_study_comes_back_whole(folder, study):
    write_study(folder, study)
    assert read_study(folder) == study


def test_a_text_that_would_reach_a_terminal_as_more_than_text_comes_back_as_its_escape(tmp_path):
    """Titles, labels and names come from whoever wrote the folder."""
    hostile = "\x1b]0;owned\x07 \u202egnp.exe \udc80"
    write_study(tmp_path, StudyRecord(name="a", title=hostile, command=hostile, rows=()))
    found = read_study(tmp_path)
    assert found.title == found.command == r"\x1b]0;owned\x07 \u202egnp.exe \udc80"


def _row(label: str, **values) -> RowRecord:
    empty = dict.fromkeys(("seeds", "learning_rates", "averages", "paper_averages"), ())
    return RowRecord(**{"label": label, "dataset": "", "architecture": "", **empty, **values})


def _study(*rows: RowRecord) -> StudyRecord:
    return StudyRecord(name="demo", title="", command="polyak demo", rows=rows)


def test_the_plan_holds_no_choice_and_the_choices_no_plan(tmp_path):
    row = _row("a", seeds=(0,), search={"0.1": {"0": "x"}}, chosen_learning_rate=0.1)
    write_study(tmp_path, _study(row))
    plan = json.loads((tmp_path / "plan.json").read_text())
    choices = read_checked(tmp_path / "choices.json")
    assert choices == {
        "a": {
            "chosen_learning_rate": 0.1,
            "failure": None,
            "seed_learning_rates": {},
            "stops": {},
        }
    }
    assert not choices["a"].keys() & plan["rows"][0].keys()


def test_the_chosen_search_runs_are_those_of_the_chosen_rate():
    stops = {"0": (Stop(rule="sgd", epoch=1, average="sgd"),)}
    search = {"0.1": {"0": "x"}, "0.2": {"0": "y"}}
    row = _row("a", search=search)
    assert row.chosen_search == {}
    chosen = dataclasses.replace(row, chosen_learning_rate=0.2, stops=stops)
    assert chosen.chosen_search == {"0": "y"}


def test_replacing_a_row_leaves_the_others_and_their_order():
    study = _study(_row("a"), _row("b"), _row("c"))
    changed = with_row(study, _row("b", failure="no"))
    assert [row.label for row in changed.rows] == ["a", "b", "c"]
    assert [row.failure for row in changed.rows] == [None, "no", None]


@pytest.mark.parametrize("name", ["plan.json", "choices.json"])
@pytest.mark.parametrize("text", [None, "", '{"a": ', "[]", "{}", "7"])
def test_a_missing_or_damaged_file_is_no_study(tmp_path, name, text):
    write_study(tmp_path, _study(_row("a")))
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(FileError, match=r"holds no study .*; expected plan\.json and choices"):
        read_study(tmp_path)


def test_choices_of_other_rows_are_no_study(tmp_path):
    write_study(tmp_path, _study(_row("a")))
    other = tmp_path / "other"
    write_study(other, _study(_row("b")))
    (other / "choices.json").replace(tmp_path / "choices.json")
    with pytest.raises(FileError, match="holds no study"):
        read_study(tmp_path)


STOPS = [{"rule": rule, "epoch": 2, "average": "sgd"} for rule in ("sgd", "acc", "loss")]


@pytest.mark.parametrize(
    ("plan", "choices"),
    [
        ({"refit": {"0": None}}, {}),
        ({"search": []}, {}),
        ({}, {"chosen_learning_rate": "0.1"}),
        ({}, {"chosen_learning_rate": 0.07}),
        ({}, {"stops": {"0": STOPS, "1": STOPS[:-1]}}),
        ({}, {"stops": {"0": [{**STOPS[0], "epoch": "x"}, *STOPS[1:]]}}),
    ],
)
def test_a_study_edited_into_what_none_is_is_refused(tmp_path, plan, choices):
    row = _row("a", search={"0.1": {"0": "x", "1": "y"}}, chosen_learning_rate=0.1)
    write_study(tmp_path, _study(row))
    assert read_study(tmp_path).rows == (row,)
    for name, changes in (("plan.json", plan), ("choices.json", choices)):
        record = json.loads((tmp_path / name).read_text())
        # Whoever edits a record on purpose does as the message says.
        del record["sha256"]
        (record["rows"][0] if name == "plan.json" else record["a"]).update(changes)
        (tmp_path / name).write_text(json.dumps(record))
    with pytest.raises(FileError, match=r"holds no study .(?!.*checksum)"):
        read_study(tmp_path)


@pytest.mark.parametrize("name", ["plan.json", "choices.json"])
def test_a_study_that_was_altered_is_refused_and_the_file_is_named(tmp_path, name):
    row = _row("a", search={"0.1": {"0": "x"}, "0.2": {"0": "y"}}, chosen_learning_rate=0.1)
    write_study(tmp_path, _study(row))
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace("demo", "dema").replace("0.1", "0.2"))
    with pytest.raises(FileError, match=rf"{name}: it is not as it was written, by its checksum"):
        read_study(tmp_path)


@pytest.mark.parametrize("run", ["../../evil", "/etc/evil", "a/b", "..", ".", "", "a" * 65, "a\n"])
def test_a_run_whose_id_leads_elsewhere_is_refused(tmp_path, run):
    for values in (
        {"refit": {"0": run}},
        {"search": {"0.1": {"0": run}}},
        {"transfer": {"t": run}},
    ):
        write_study(tmp_path, _study(_row("a", **values)))
        with pytest.raises(FileError, match="no plain name"):
            read_study(tmp_path)
    measured = MeasurementRecord(label="l", dataset="d", architecture="a", run=run)
    write_study(tmp_path, dataclasses.replace(_study(), measurement=measured))
    with pytest.raises(FileError, match="no plain name"):
        read_study(tmp_path)


def test_wall_time_that_is_no_number_is_refused(tmp_path):
    write_study(tmp_path, _study(_row("a")))
    plan = json.loads((tmp_path / "plan.json").read_text())
    del plan["sha256"]
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "seconds": "x"}))
    with pytest.raises(FileError, match="holds no study"):
        read_study(tmp_path)
