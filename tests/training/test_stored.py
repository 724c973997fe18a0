import json
from dataclasses import replace

import pytest

from polyak.errors import FileError, StateError
from polyak.records.runs import RunFolder, run_folder
from polyak.training.config import RunConfig, Stop
from polyak.training.optim import OptimConfig
from polyak.training.stored import arm_weights, kept_arms, run_config


def as_read(config):
    """A configuration's record as JSON gives it back."""
    return json.loads(json.dumps(config.record()))


def test_a_configuration_comes_back_from_its_record(tiny):
    stops = (Stop(rule="acc", epoch=2, average="ema_0.9"),)
    for config in (
        RunConfig(),
        tiny,
        replace(tiny, holdout=False, stops=stops, monitors=("test",)),
        replace(tiny, optim=OptimConfig(schedule="step", milestones=(1, 2), warmup_epochs=0)),
    ):
        found = run_config(as_read(config))
        assert found == config
        assert found.id == config.id


def test_settings_that_an_older_version_did_not_know_have_their_defaults(tiny):
    record = as_read(tiny)
    del record["averaging"]["swa"], record["data"]["noise"]["seed"], record["monitors"]
    assert run_config(record) == tiny


def test_a_newer_setting_and_another_kind_are_refused(tiny):
    record = as_read(tiny)
    with pytest.raises(FileError, match=r"cannot be read .*'warp'"):
        run_config({**record, "model": {**record["model"], "warp": 9}})
    with pytest.raises(FileError, match="cannot be read"):
        run_config({"kind": "train"})
    with pytest.raises(FileError, match="kind of the run is 'probe'; expected 'train'"):
        run_config({"kind": "probe"})


def test_arms_are_those_of_a_run_that_ended_well(tmp_path):
    folder = run_folder(tmp_path, "abc")
    folder.write_config({})
    with pytest.raises(StateError, match="is not finished; expected one that is done"):
        kept_arms(folder)
    folder.arm("sgd").parent.mkdir()
    folder.arm("sgd").touch()
    folder.finish("done", seconds=1.0)
    assert kept_arms(folder) == ["sgd"]
    with pytest.raises(FileError, match="arm is 'ema'; expected one of sgd"):
        arm_weights(folder, "ema")
    (tmp_path / "other").mkdir()
    diverged = RunFolder(tmp_path / "other")
    diverged.finish("diverged", seconds=1.0)
    with pytest.raises(StateError, match="is diverged"):
        kept_arms(diverged)
