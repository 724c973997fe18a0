"""Claims are registered before the first run, once, or not at all."""

import shutil

import pytest
from support.declared_claims import claim_of, gain

from polyak.errors import ConfigError
from polyak.records.locks import HeldError, holding
from polyak.records.registration import read_registration
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord, StudyRecord, read_study
from polyak.study.registration import register


def record(bound=0.0, **changed) -> StudyRecord:
    row = RowRecord(
        label="a",
        dataset="d",
        architecture="n",
        seeds=(0, 1),
        learning_rates=(0.1,),
        averages=("ema_0.9",),
        paper_averages=(),
        search={"0.1": {"0": "run0", "1": "run1"}},
    )
    claims = (claim_of(gain("a", bound=bound).settled()),)
    terms = {"name": "mine", "title": "Mine", "command": "polyak study mine.py", "claims": claims}
    return StudyRecord(rows=(row,), **{**terms, **changed})


def registered(study, out):
    return register(study, out, power=(), version="0.1.0")


def test_a_registration_lies_beside_the_plan_and_says_when(tmp_path):
    made, new = registered(record(), tmp_path)
    assert new
    assert read_registration(tmp_path / "mine") == made
    assert read_study(tmp_path / "mine") == record()
    assert made.date.endswith("+00:00")


def test_registering_the_same_again_keeps_the_date_also_when_runs_have_begun(tmp_path):
    made, _ = registered(record(), tmp_path)
    run_folder(tmp_path, "run0").path.mkdir(parents=True)
    assert registered(record(), tmp_path) == (made, False)


def test_before_any_run_another_registration_takes_its_place(tmp_path):
    first, _ = registered(record(), tmp_path)
    second, new = registered(record(bound=0.5), tmp_path)
    assert new
    assert first.digest != second.digest
    assert read_registration(tmp_path / "mine") == second


def test_once_a_run_has_begun_nothing_is_registered(tmp_path):
    run_folder(tmp_path, "run1").path.mkdir(parents=True)
    with pytest.raises(ConfigError, match="1 of the 2 runs of the search have begun"):
        registered(record(), tmp_path)
    assert read_registration(tmp_path / "mine") is None


def test_once_a_run_has_begun_what_was_registered_stands(tmp_path):
    made, _ = registered(record(), tmp_path)
    run_folder(tmp_path, "run1").path.mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"registered on {made.date[:10]}.* stands"):
        registered(record(bound=0.5), tmp_path)
    assert read_registration(tmp_path / "mine") == made


def test_a_study_without_claims_has_nothing_to_register(tmp_path):
    with pytest.raises(ConfigError, match="has no claims; expected some of its own"):
        registered(record(claims=()), tmp_path)
    assert not (tmp_path / "mine").exists()


def test_a_study_that_is_at_work_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    with holding(tmp_path / "mine"), pytest.raises(HeldError):
        registered(record(), tmp_path)
    shutil.rmtree(tmp_path / "mine")
