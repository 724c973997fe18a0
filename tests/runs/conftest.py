"""A cache of its own, and finished runs of moments: a search, and one without a hold-out."""

from dataclasses import replace

import pytest

from polyak import runs
from polyak.data import DataConfig, NoiseConfig, prepare
from polyak.models import ModelConfig
from polyak.records.runs import run_folder
from polyak.training.config import AveragingConfig, RunConfig
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
        search = RunConfig(
            data=prepare(
                DataConfig(
                    train_limit=90,
                    test_limit=40,
                    crop_padding=1,
                    noise=NoiseConfig(kind="symmetric", rate=0.3),
                )
            ),
            model=ModelConfig(name="resnet8", width=4),
            optim=OptimConfig(lr=0.1, warmup_epochs=1),
            averaging=AveragingConfig(decays=(0.2, 0.9), every=2),
            epochs=2,
            batch_size=16,
        )
        for config in (search, replace(search, holdout=False, epochs=1, optim=OptimConfig())):
            carry_out(replace(config, optim=replace(config.optim, warmup_epochs=0.5)), folder)
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
