"""polyak board: the best average of a run, found by a score of one's own."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import polyak
from polyak.data import prepare
from polyak.records.runs import run_folder
from polyak.training.config import AveragingConfig
from polyak.training.jobs import carry_out

SCORE = """
import torch

def score(state):
    items = torch.linspace(-1, 1, 40)[:, None]
    return (state["weight"].reshape(1, -1) - items).square().mean(dim=1)

def none(state):
    return score(state) * float("nan")

def fails(state):
    return state["bias"]
"""


@pytest.fixture
def kept(tmp_path):
    """Four files of one run, and a score."""
    (tmp_path / "mine.py").write_text(SCORE)
    model, generator = nn.Linear(20, 1, bias=False), torch.Generator().manual_seed(0)
    averager = polyak.Averager(model, [polyak.EMA(d, None) for d in (0.5, 0.8, 0.9, 0.95)])
    paths = []
    for step in range(1, 101):
        with torch.no_grad():
            model.weight.copy_(torch.randn(1, 20, generator=generator))
        averager.step()
        if step % 25 == 0:
            paths.append(tmp_path / f"{step}.safetensors")
            polyak.save(averager, paths[-1])
    return paths


def test_the_best_is_written_and_says_what_it_is(kept, tmp_path, told):
    out = tmp_path / "best.safetensors"
    said = told("board", *kept, "--score", f"{tmp_path / 'mine.py'}:score", "--out", out)
    assert "behind the best" in said
    assert "ema_0.95, which was kept, costs " in said
    name = said.splitlines()[-1].split(" ")[0]
    assert f"{name}: averaged" in told("inspect", out)
    assert load_file(out)["weight"].shape == (1, 20)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ("none", "score gives NaN"),
        ("fails", "raises KeyError"),
        ("gone", "gone"),
    ],
)
def test_a_score_that_is_none_is_named_and_nothing_written(kept, tmp_path, refused, score, words):
    out = tmp_path / "best.safetensors"
    said = refused("board", *kept, "--score", f"{tmp_path / 'mine.py'}:{score}", "--out", out)
    assert words in said
    assert not out.exists()
    assert "expected file.py:score" in refused("board", *kept, "--score", "mine", "--out", out)


def test_a_run_is_compared_on_its_own_hold_out(small, tmp_path, told, refused, monkeypatch):
    [row] = small.rows
    averaging = AveragingConfig(decays=(0.3, 0.6, 0.9), every=1)
    config = replace(row.config, averaging=averaging, epochs=3, batch_size=20)
    config = replace(config, data=prepare(config.data))
    carry_out(config, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    best, run = tmp_path / "best.safetensors", run_folder(tmp_path / "out", config.id)
    said = told("board", config.id, "--largest-error", "0.1", "--out", best)
    assert "which was kept, costs " in said
    assert "mixtures" not in said
    assert "BatchNorm statistics fresh" in told("inspect", best)
    arm = run.arm("ema_acc")
    before = arm.read_bytes()
    assert "expected another file" in refused("board", run.path, "--out", arm)
    assert arm.read_bytes() == before
    assert "Only of a run may it be left out" in refused("board", arm)
