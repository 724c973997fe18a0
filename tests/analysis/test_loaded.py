"""A study is read once, and what is loaded is what its files hold."""

import shutil
from dataclasses import replace

import pytest
from support.slow_results import values

from polyak.analysis.loaded import LoadedRow, LoadedRun, load_recorded_study, load_study
from polyak.analysis.results import Result, Results, all_runs
from polyak.errors import FileError
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder


def test_runs_hold_what_their_folders_do(toy):
    out, record = toy
    (row,) = load_study(out, "toy").rows
    assert list(row.runs) == all_runs(record.rows[0])
    for run in row.runs.values():
        folder = run_folder(out, run.id)
        assert run.ending == folder.ending
        assert list(run.log.epochs) == folder.epochs()
        assert list(run.log.monitors) == folder.monitors()
        if run.config is not None:
            assert run.config == folder.config()
    said = Predictions(run_folder(out, next(iter(record.rows[0].refit.values()))).predictions)
    assert row.test_images == len(said.labels_n("test"))
    given_n, clean_n = (said.labels_n("train", kind) for kind in ("given", "clean"))
    assert row.wrong_labels == (int((given_n != clean_n).sum()), len(given_n))


def test_phases_are_by_seed_and_only_finished_runs_are_done(toy, tmp_path):
    out, record = toy
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    gone = record.rows[0].refit["1"]
    (run_folder(tmp_path, gone).path / "DONE").unlink()
    (row,) = load_recorded_study(tmp_path, record).rows
    assert row.of("refit").keys() == {"0", "1"}
    assert row.done("refit").keys() == {"0"}
    assert len(row.logs("search")) == 2
    assert row.of("annealed") == {}
    assert {r.seed for r in row.results if r.phase == "refit"} == {"0"}


def test_a_row_without_runs_knows_nothing(toy):
    bare = replace(toy[1].rows[0], search={}, refit={}, transfer={}, stops={})
    row = LoadedRow(record=bare)
    assert (row.config, row.test_images, row.wrong_labels) == (None, None, None)
    assert row.logs("search") == []
    assert not LoadedRun(id="r").done


def test_numbers_are_found_as_by_a_look_at_each(toy):
    results = load_study(*toy[:1], "toy").results
    (row,) = load_study(toy[0], "toy").rows
    keys = {(r.phase, r.arm, r.metric, r.target) for r in results}
    assert len(keys) > 100
    for phase, arm, metric, target in keys:
        found = row.results.by_seed(phase=phase, arm=arm, metric=metric, target=target)
        assert found == values(
            results, row=row.label, phase=phase, arm=arm, metric=metric, target=target
        )
    assert row.results.by_seed(phase="refit", arm="none", metric="accuracy") == {}


def test_results_keep_their_order():
    keys = {"row": "r", "phase": "refit", "target": "test", "arm": "sgd"}
    numbers = [
        Result(**keys, seed=seed, metric=metric, value=0.5)
        for seed, metric in (("1", "loss"), ("0", "accuracy"), ("0", "loss"))
    ]
    assert list(Results(numbers)) == numbers


def test_a_damaged_file_of_a_finished_run_is_named(toy, tmp_path):
    out, record = toy
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    path = run_folder(tmp_path, next(iter(record.rows[0].refit.values()))).predictions
    path.write_bytes(b"nothing")
    with pytest.raises(FileError, match="is damaged"):
        load_study(tmp_path, "toy")
