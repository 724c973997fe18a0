"""A cache of its own, and finished runs of moments: a search, and one without a hold-out."""

from dataclasses import replace

import pytest
from support.small_runs import small_run

from polyak import runs
from polyak.records.runs import run_folder
from polyak.training.jobs import carry_out
from polyak.training.optim import OptimConfig


@pytest.fixture(scope="session")
def runs_cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(runs_cache_folder, monkeypatch):
    monkeypatch.setenv("POLYAK_CACHE", str(runs_cache_folder))


@pytest.fixture(scope="session")
def out(runs_cache_folder, tmp_path_factory):
    """An output folder with both runs."""
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(runs_cache_folder))
        search = small_run(epochs=2, optim=OptimConfig(lr=0.1, warmup_epochs=0.5))
        carry_out(search, folder)
        refit = replace(search, holdout=False, epochs=1, optim=OptimConfig(warmup_epochs=0.5))
        carry_out(refit, folder)
    return folder


@pytest.fixture(scope="session")
def both(out):
    found = [runs.load(path) for path in (out / "runs").iterdir()]
    return {run.config.holdout: run for run in found}


@pytest.fixture
def run(both):
    """The search."""
    return both[True]


@pytest.fixture
def folder(run, out):
    return run_folder(out, run.id)
