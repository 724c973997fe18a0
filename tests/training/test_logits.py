import pytest

from polyak.errors import FileError, StateError
from polyak.records.runs import RunFolder, run_folder
from polyak.training.logits import arm_weights, kept_arms


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
