"""polyak board: the best average of a run, found by a score of one's own."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import polyak

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
