"""A registration is read as it was written, and says what was changed since."""

import json
from dataclasses import replace

import pytest
from support.declared_claims import assumed_power, gain

from polyak.errors import FileError
from polyak.records.claims import Claim
from polyak.records.registration import (
    FILE,
    Registration,
    changes,
    plan_of,
    read_registration,
    write_registration,
)
from polyak.records.studies import RowRecord, StudyRecord, read_study, write_study

GAIN = gain("a", bound=0.2).settled()
CLAIM = Claim(id="gain", sentence="It gains.", comparisons=(GAIN,), seeds=(0, 1))
OTHER = Claim(id="other", sentence="It gains again.", comparisons=(replace(GAIN, bound=1),))


def row(label="a", **changed) -> RowRecord:
    seeds = changed.get("seeds", (0, 1))
    return RowRecord(
        **{
            "label": label,
            "dataset": "d",
            "architecture": "n",
            "seeds": seeds,
            "learning_rates": (0.1,),
            "averages": ("ema_0.9",),
            "paper_averages": (),
            "search": {"0.1": {str(seed): f"run{seed}" for seed in seeds}},
            **changed,
        }
    )


STUDY = StudyRecord(
    name="mine", title="Mine", command="polyak study mine.py", rows=(row(),), claims=(CLAIM, OTHER)
)
REGISTERED = Registration(
    study="mine",
    date="2026-11-30T12:00:00+00:00",
    polyak="0.1.0",
    claims=STUDY.claims,
    plan=plan_of(STUDY),
    power=(assumed_power("gain", "a: it gains", source="kept", detectable=0.1),),
)


def test_a_registration_is_read_as_it_was_written(tmp_path):
    assert read_registration(tmp_path) is None
    write_registration(tmp_path, REGISTERED)
    assert read_registration(tmp_path) == REGISTERED
    assert read_registration(tmp_path).digest == REGISTERED.digest


def test_a_studys_claims_are_read_as_they_were_written(tmp_path):
    write_study(tmp_path, STUDY)
    assert read_study(tmp_path) == STUDY
    assert not changes(REGISTERED, read_study(tmp_path))


def test_a_plan_from_before_there_were_claims_has_none(tmp_path):
    write_study(tmp_path, replace(STUDY, claims=()))
    path = tmp_path / "plan.json"
    plan = json.loads(path.read_text())
    del plan["claims"], plan["sha256"], plan["rows"][0]["wanted"]
    path.write_text(json.dumps(plan))
    assert read_study(tmp_path) == replace(STUDY, claims=())


def edited(folder, change) -> None:
    """As someone would who knows of the checksum, and not of the digest."""
    path = folder / FILE
    record = json.loads(path.read_text())
    del record["sha256"]
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["claims"][0]["comparisons"][0].update(bound=0.0),
        lambda record: record["claims"].pop(),
        lambda record: record["plan"][0].update(seeds=[0]),
        lambda record: record.update(claims=3),
        lambda record: record.pop("plan"),
        lambda record: record["claims"][0]["comparisons"][0].update(metric="luck"),
        lambda record: record["claims"][0]["comparisons"][0].update(bound="much"),
        lambda record: record["power"][0].update(more=1),
    ],
)
def test_one_that_was_edited_is_refused(tmp_path, change):
    write_registration(tmp_path, REGISTERED)
    edited(tmp_path, change)
    with pytest.raises(FileError, match="expected what `polyak study --register` wrote"):
        read_registration(tmp_path)


def test_one_that_is_damaged_is_refused(tmp_path):
    write_registration(tmp_path, REGISTERED)
    path = tmp_path / FILE
    path.write_text(path.read_text().replace("It gains.", "It loses."))
    with pytest.raises(FileError, match="by its checksum"):
        read_registration(tmp_path)


def moved(**changed) -> StudyRecord:
    claim = replace(CLAIM, comparisons=(replace(GAIN, **changed),))
    return replace(STUDY, claims=(claim, OTHER))


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (STUDY, []),
        (moved(bound=0.0), ["claim gain: bound was 0.2, is 0"]),
        (moved(side="below"), ["claim gain: side was above, is below"]),
        (moved(against="best of sgd"), ["claim gain: against was sgd, is best of sgd"]),
        (replace(STUDY, claims=(OTHER,)), ["claim gain was removed"]),
        (
            replace(STUDY, claims=(*STUDY.claims, replace(CLAIM, id="new"))),
            ["claim new was added"],
        ),
        (
            replace(STUDY, claims=(replace(CLAIM, seeds=(), sentence="So."), OTHER)),
            [
                "claim gain: its sentence was “It gains.”, is “So.”",
                "claim gain: seeds was 0, 1, is none",
            ],
        ),
        (
            replace(STUDY, claims=(replace(CLAIM, comparisons=(GAIN, GAIN)), OTHER)),
            ["claim gain: number of comparisons was 1, is 2"],
        ),
        (
            replace(STUDY, rows=(row(seeds=(0, 1, 2)),)),
            ["row 'a': seeds was 0, 1, is 0, 1, 2"],
        ),
        (
            replace(STUDY, rows=(row(search={"0.1": {"0": "run0", "1": "new"}}),)),
            ["row 'a': its runs are others (their settings, data or network’s code)"],
        ),
        (
            replace(STUDY, rows=(row(wanted=("annealed",)), row("b"))),
            ["row 'b' was added to the plan", "row 'a': wanted was none, is annealed"],
        ),
        (
            replace(STUDY, rows=(row("b"),)),
            ["row 'b' was added to the plan", "row 'a' was removed from the plan"],
        ),
    ],
)
def test_what_was_changed_is_said(study, said):
    assert list(changes(REGISTERED, study)) == said


def test_what_runs_find_changes_no_plan():
    over = row(refit={"0": "r0"}, chosen_learning_rate=0.1, failure="why", follow_ups={"held": {}})
    assert not changes(REGISTERED, replace(STUDY, rows=(over,), seconds=9.0))
