"""A board of what a run kept: sums of its arms, with statistics recomputed, on its hold-out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_runs import small_run
from torch.nn.functional import cross_entropy

import polyak
from polyak import runs
from polyak.errors import ConfigError, StateError
from polyak.records.vocabulary import Stop
from polyak.training.config import AveragingConfig
from polyak.training.jobs import carry_out
from polyak.training.optim import OptimConfig

PAGE = (Path(__file__).parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")
OPTIM = OptimConfig(lr=0.1, warmup_epochs=0.5)


@pytest.fixture(scope="module")
def kept(runs_cache_folder, tmp_path_factory):
    """A run that kept averages of several lengths, and its like without a hold-out."""
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(runs_cache_folder))
        averaging = AveragingConfig(decays=(0.3, 0.6, 0.9), every=1)
        search = small_run(epochs=3, optim=OPTIM, averaging=averaging, more_averages=("power",))
        stop = Stop(rule="acc", epoch=2, average="ema_0.3")
        refit = replace(search, holdout=False, stops=(stop,))
        for config in (search, refit):
            carry_out(config, folder)
    return [runs.load(folder / "runs" / config.id) for config in (search, refit)]


def test_what_a_run_kept_is_summed_and_scored_on_its_hold_out(kept):
    run, _ = kept
    found = runs.board(run, largest_error=0.15)
    [(name, state)] = found.weights.items()
    twin = dict.fromkeys(state, 0.0)
    for file, arm, share in found.weights.manifest["synthesis"]["of"]:
        parts = polyak.load(run.path / "averages" / file)[arm]
        twin = {key: x + share * parts[key].double() for key, x in twin.items()}
    network = run.network_of({key: x.to(state[key].dtype) for key, x in twin.items()})
    run.recompute_statistics(network)
    for key, x in network.state_dict().items():
        if x.is_floating_point():
            assert torch.allclose(x, state[key], atol=1e-5), key
    assert found.weights.manifest["refreshed_batchnorm"] == [name]
    logits = run.predict(network, run.data.holdout_images_nchw)
    losses = cross_entropy(logits, run.data.holdout_given_n, reduction="none")
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(0))
    half = len(losses) // 2
    assert found.best.chosen == pytest.approx(float(losses[order[:half]].mean()), abs=1e-5)
    assert found.best.scored == pytest.approx(float(losses[order[half:]].mean()), abs=1e-5)


def test_the_pages_example_runs(kept):
    [block] = re.findall(r"```python\n([^`]*runs\.board[^`]*)```", PAGE)
    found = {"polyak": polyak, "run": kept[0]}
    exec(compile(block, "docs/runs.md", "exec"), found)
    assert not found["network"].training


def test_a_run_without_a_hold_out_takes_a_score(kept):
    _, refit = kept
    with pytest.raises(ConfigError, match="kept no hold-out"):
        runs.board(refit)
    network = refit.network("sgd")

    def score(state):
        network.load_state_dict(state)
        logits = refit.predict(network, refit.data.train_images_nchw)
        return cross_entropy(logits, refit.data.train_given_n, reduction="none")

    found = runs.board(refit, score, largest_error=0.1)
    assert {row.steps for row in found.rows} == {epoch.step for epoch in refit.epochs[1:]}


def test_a_run_that_kept_too_little_is_refused(both, kept):
    with pytest.raises(ConfigError, match="kept no averages of its bank"):
        runs.board(both[False], lambda state: torch.ones(8))
    with pytest.raises(ConfigError, match=r"nothing but '\w+' can be made of what was kept"):
        runs.board(kept[0], largest_error=2e-4)
    with pytest.raises(ConfigError, match="reach to fewer than 8 updates"):
        runs.board(both[True])


def test_a_run_that_has_not_ended_is_refused(kept, tmp_path):
    (tmp_path / "config.json").write_bytes((kept[0].path / "config.json").read_bytes())
    with pytest.raises(StateError, match="not finished; expected one that is done"):
        runs.load(tmp_path)
