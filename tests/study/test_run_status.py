"""What the files say, at every moment of a study and after every mishap."""

import json
import os
import time
from dataclasses import replace

import pytest

from polyak.errors import FileError
from polyak.records.locks import holding
from polyak.records.runs import EpochRecord, Score, run_folder
from polyak.records.studies import MeasurementRecord, RowRecord, StudyRecord, write_study
from polyak.study.status import overview, run_status
from polyak.training.config import RunConfig

RUN = RunConfig(epochs=10)
ROW = RowRecord(
    label="r",
    dataset="digits",
    architecture="a",
    seeds=(0, 1),
    learning_rates=(0.1,),
    averages=("ema",),
    paper_averages=("ema",),
    search={"0.1": {"0": "first", "1": "second"}},
)
STUDY = StudyRecord(name="s", title="A study", command="polyak study s", rows=(ROW,), workers=2)


def epochs(n):
    return [
        EpochRecord(
            epoch=i,
            step=i,
            learning_rate=0.1,
            train=Score(1.0, 0.5),
            seconds=2.0 * i,
            holdout={"sgd": Score(1.0, 0.5), "ema": Score(1.0, i / 10)},
        )
        for i in range(1, n + 1)
    ]


@pytest.fixture
def begun(tmp_path):
    """A run's folder in the middle of its run, which nobody works on."""
    folder = run_folder(tmp_path, RUN.id)
    folder.write_config(RUN.record())
    folder.write_epochs(epochs(3))
    folder.checkpoints.mkdir()
    return folder


def content(folder):
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_a_run_goes_through_its_states(tmp_path, begun):
    def state():
        return run_status(tmp_path, RUN.id).state

    assert run_status(tmp_path, "absent").state == "waiting"
    assert state() == "interrupted"
    with holding(begun.path):
        assert state() == "running"
    begun.fail("Traceback\nValueError: four\n")
    assert state() == "failed"
    assert run_status(tmp_path, RUN.id).note == "ValueError: four"
    begun.tidy()
    assert state() == "interrupted"
    begun.finish("diverged", seconds=7.5)
    assert state() == "diverged"
    begun.finish("done", seconds=7.5)
    assert state() == "done"
    assert run_status(tmp_path, RUN.id).seconds == 7.5


def test_a_run_at_work_tells_epoch_scores_checkpoint_and_time_left(tmp_path, begun):
    older, newest = (begun.checkpoints / f"at-{i:04}-00000.safetensors" for i in (2, 3))
    for path, age in ((older, 500), (newest, 90)):
        path.write_bytes(b"")
        os.utime(path, (time.time() - age, time.time() - age))
    with holding(begun.path):
        status = run_status(tmp_path, RUN.id)
    assert (status.job, status.epochs) == (RUN, epochs(3))
    assert status.holder.pid == os.getpid()
    assert status.checkpoint_age == pytest.approx(90, abs=30)
    # 3 epochs took 6 s; 7 are left.
    assert status.seconds_left == 14
    # A clock that was set back makes no age negative.
    os.utime(newest, (time.time() + 1e6, time.time() + 1e6))
    assert run_status(tmp_path, RUN.id).checkpoint_age == 0


def test_the_lock_of_a_dead_process_makes_no_run_running(tmp_path, begun):
    (begun.path / "LOCK").write_text(json.dumps({"pid": 2**22 + 1, "host": os.uname().nodename}))
    assert run_status(tmp_path, RUN.id).state == "interrupted"


def test_looking_changes_nothing(tmp_path, begun):
    write_study(tmp_path / "s", STUDY)
    with holding(begun.path):
        before = content(tmp_path)
        overview(tmp_path)
        assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "text", "state"),
    [
        ("log.jsonl", '{"epoch": 1', "damaged"),
        ("log.jsonl", "\x00\x01", "damaged"),
        ("DONE", '{"ending"', "damaged"),
        ("config.json", "{", "interrupted"),
        ("LOCK", "{", "running"),
        ("FAILED", "", "failed"),
    ],
)
def test_a_damaged_run_is_called_so_and_hides_no_other(tmp_path, begun, name, text, state):
    (begun.path / name).write_text(text)
    other = run_folder(tmp_path, "other")
    other.finish("done", seconds=1.0)
    (found,) = overview(tmp_path)
    states = {run.id: run.state for run in found.runs}
    assert states == {RUN.id: state, "other": "done"}
    assert (name in found.runs[0].note + found.runs[1].note) == (state == "damaged")


@pytest.mark.parametrize("name", ["plan.json", "choices.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": [3]}'])
def test_a_damaged_study_is_named_and_hides_no_other(tmp_path, name, text):
    write_study(tmp_path / "s", STUDY)
    write_study(tmp_path / "t", replace(STUDY, name="t"))
    (tmp_path / "s" / name).write_text(text)
    damaged, sound = overview(tmp_path)
    assert str(tmp_path / "s") in damaged.fault
    assert (sound.fault, [run.id for run in sound.runs]) == (None, ["first", "second"])


def test_studies_come_with_all_their_runs_and_the_others_after_them(tmp_path, begun):
    refitted = replace(ROW, refit={"0": "third", "1": "fourth"}, transfer={"x": "probe"})
    write_study(tmp_path / "s", replace(STUDY, rows=(refitted,)))
    study, rest = overview(tmp_path)
    assert [run.id for run in study.runs] == ["first", "second", "third", "fourth", "probe"]
    assert study.unplanned == 0
    assert [run.id for run in rest.runs] == [RUN.id]
    # The study's own folder shows it alone.
    (alone,) = overview(tmp_path / "s")
    assert alone == study


def test_follow_ups_and_a_measurement_are_runs_of_their_study(tmp_path):
    following = {"held": {"0": "held"}, "annealed": {"0": "annealed", "1": "third"}}
    refitted = replace(ROW, refit={"0": "third"}, follow_ups=following, transfer={"x": "probe"})
    measured = MeasurementRecord(label="", dataset="", architecture="", run="timed")
    write_study(tmp_path / "s", replace(STUDY, rows=(refitted,), measurement=measured))
    names = ["timed", "first", "second", "third", "annealed", "held", "probe"]
    for name in names:
        run_folder(tmp_path, name).finish("done", seconds=1.0)
    for folder in (tmp_path, tmp_path / "s"):
        (study,) = overview(folder)
        assert [run.id for run in study.runs] == names


def test_what_follows_the_choice_is_counted_until_it_is_named(tmp_path):
    def unplanned(**values):
        write_study(tmp_path / "s", replace(STUDY, rows=(replace(ROW, following=5, **values),)))
        return overview(tmp_path)[0].unplanned

    refit = {"0": "third", "1": "fourth"}
    held = {name: {"0": f"{name}0", "1": f"{name}1"} for name in ("held", "annealed")}
    assert unplanned() == 7
    assert unplanned(refit=refit, follow_ups=held) == 1
    assert unplanned(refit=refit, follow_ups=held, transfer={"x": "probe"}) == 0
    assert unplanned(failure="no") == 0
    # Where a refit is lost, no probe will come.
    run_folder(tmp_path, "third").finish("diverged", seconds=1.0)
    assert unplanned(refit=refit, follow_ups=held) == 0


def test_the_time_left_is_that_of_runs_like_those_before(tmp_path):
    write_study(tmp_path / "s", STUDY)
    run_folder(tmp_path, "first").finish("done", seconds=30.0)
    (study,) = overview(tmp_path)
    # One to do and two refits that nobody has chosen yet, two at a time.
    assert study.unplanned == 2
    assert study.seconds_left == 45
    run_folder(tmp_path, "first").finish("done")
    assert overview(tmp_path)[0].seconds_left is None


def test_a_file_among_the_runs_is_no_run(tmp_path, begun):
    (tmp_path / "runs" / "plan.txt").write_text("")
    (found,) = overview(tmp_path)
    assert [run.id for run in found.runs] == [RUN.id]


def test_a_folder_without_study_or_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileError, match="holds no study and no run"):
            overview(folder)
