"""`precision auto` is settled before a run has its id, by what steps take here."""

from dataclasses import replace

import pytest
import torch

from polyak.data import load, partition
from polyak.errors import ConfigError
from polyak.records.runs import run_folder
from polyak.training import faster_precision
from polyak.training.faster_precision import Choice, settled
from polyak.training.jobs import carry_out

CPU = torch.device("cpu")


@pytest.fixture
def auto(tiny):
    return replace(tiny, precision="auto")


@pytest.fixture
def data(tiny):
    return partition(load(tiny.data), tiny.data, holdout=True)


@pytest.mark.parametrize(
    ("share", "chosen"), [(0.5, "bfloat16"), (0.89, "bfloat16"), (0.91, "float32"), (3, "float32")]
)
def test_bfloat16_is_chosen_where_it_is_clearly_faster(
    auto, data, tmp_path, monkeypatch, share, chosen
):
    monkeypatch.setattr(faster_precision, "_share", lambda *_: share)
    said = f"{chosen}, since a step in bfloat16 takes {share:.2f} of one in float32"
    wanted = Choice(replace(auto, precision=chosen), f"precision auto: {said}")
    assert settled(auto, data, tmp_path, device=CPU) == wanted


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_a_run_that_was_begun_goes_on_as_it_was(auto, data, tmp_path, monkeypatch, begun):
    monkeypatch.setattr(faster_precision, "_share", None)
    run = replace(auto, precision=begun)
    run_folder(tmp_path, run.id).path.mkdir(parents=True)
    choice = settled(auto, data, tmp_path, device=CPU)
    assert choice == Choice(run, f"precision auto: {begun}, as the run was begun")


@pytest.mark.parametrize("given", [None, "float32", "bfloat16"])
def test_a_precision_that_is_given_is_not_tried(tiny, data, tmp_path, monkeypatch, given):
    monkeypatch.setattr(faster_precision, "_share", None)
    config = replace(tiny, precision=given)
    assert settled(config, data, tmp_path, device=CPU) == Choice(config)


def test_a_few_steps_of_both_are_timed_in_turns(auto, data, tmp_path, monkeypatch):
    """By a clock that a step in bfloat16 moves half as far."""
    taken = []

    def step(config, _data, _device):
        return lambda: taken.append(config.precision)

    def clock():
        return sum(0.5 if name == "bfloat16" else 1.0 for name in taken)

    monkeypatch.setattr(faster_precision, "_step", step)
    monkeypatch.setattr(faster_precision.time, "perf_counter", clock)
    assert settled(auto, data, tmp_path, device=CPU).config.precision == "bfloat16"
    assert taken == ["float32", "bfloat16"] * (faster_precision.ROUNDS + 1)


def test_trying_leaves_the_run_as_it_would_have_been(auto, data, tmp_path):
    chosen = settled(auto, data, tmp_path, device=CPU).config
    assert chosen.precision in ("float32", "bfloat16")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_not_settled_is_refused_and_leaves_nothing(auto, tmp_path):
    with pytest.raises(ConfigError, match="precision is 'auto'; expected float32 or bfloat16"):
        carry_out(auto, tmp_path)
    assert not run_folder(tmp_path, auto.id).path.exists()
