"""Every example runs, and shows what it says."""

import runpy
import subprocess
import sys
from importlib.util import find_spec

import pytest
from support.pages import ROOT

from polyak.study.user_study import load_study

FOLDER = ROOT / "examples"
LINES = 120


def found(name: str) -> dict[str, float]:
    """What an example returns."""
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]()


def test_an_average_is_more_accurate_amid_wrong_labels():
    said = found("plain_pytorch")
    assert said["average"] > said["weights"] + 0.04


def test_any_decay_is_put_together_when_the_run_is_over():
    said = found("decide_afterwards")
    assert said["best"] in (0.95, 0.98, 0.99)
    assert said["off"] < 0.01


def test_an_average_of_checkpoints_stands_for_a_decay_that_was_not_run():
    said = found("instead_of_a_cooldown")
    assert said["annealed"] == pytest.approx(said["decayed"], abs=0.03)
    assert max(said["annealed"], said["lag-free"]) < said["weights"] - 0.05


@pytest.mark.slow
def test_a_gpt_goes_on_from_its_checkpoint_and_its_average_has_the_lower_loss():
    said = found("text_gpt")
    assert said["average"] < said["weights"] < 4.0


@pytest.mark.slow
def test_a_teacher_that_is_an_average_teaches():
    said = found("mean_teacher")
    assert said["with a teacher"] > said["labels alone"] + 0.02


@pytest.mark.slow
def test_a_target_network_that_is_an_average_learns_to_balance():
    said = found("dqn")
    assert said["trained"] > 2 * said["untrained"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_several_processes(how):
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call += [str(FOLDER / "several_processes.py"), how]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{how} on 2 processes: the average is right on 9" in done.stdout


@pytest.mark.slow
def test_a_component_goes_on_on_another_number_of_processes(tmp_path):
    said = {}
    for name, runs in {"parts": [(2, 40), (1, 60)], "whole": [(1, 60)]}.items():
        for processes, steps in runs:
            call = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            call += ["--nproc-per-node", str(processes), str(FOLDER / "torchtitan_component.py")]
            call += [str(tmp_path / name), str(steps)]
            done = subprocess.run(call, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[-3000:]
            said[name] = done.stdout
    assert said["parts"] == said["whole"]
    assert "after 60 steps on 1: the average is right on 0.8" in said["whole"]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # other tools' own
@pytest.mark.parametrize("tool", ["lightning", "accelerate", "transformers", "diffusers"])
def test_with_other_tools(tool):
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    said = found(f"with_{tool}")
    better = (lambda a, b: a < b) if tool in ("transformers", "diffusers") else lambda a, b: a > b
    assert better(said["average"], said["weights"])
    if tool == "lightning":
        assert said["steps"] == 6 * 38
    if tool == "accelerate":
        assert said["steps"] == said["batches"] / 4
    if tool == "transformers":
        assert said["loaded again"] == pytest.approx(said["average"], abs=1e-5)


def test_the_study_on_bytes_is_one_that_can_be_run():
    study = load_study(FOLDER / "bytes_study.py")
    study.check()
    assert [row.label for row in study.rows] == ["cosine", "wsd", "constant"]
    assert len({row.config.id for row in study.rows}) == 3


def test_the_page_names_every_example_and_each_is_short():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in FOLDER.glob("*.py"):
        assert f"`{path.name}`" in page
        assert len(path.read_text(encoding="utf-8").splitlines()) < LINES, path.name
