"""A cache of its own, and a run so small that its epochs take moments."""

import pytest
import torch
from support.small_runs import small_run

from polyak.data import load, partition
from polyak.training.config import RunConfig
from polyak.training.loop import Run


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True, scope="module")
def cache(cache_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(cache_folder))
        yield


@pytest.fixture(scope="module")
def tiny(cache) -> RunConfig:
    """See `small_run`."""
    return small_run()


@pytest.fixture(scope="module")
def start():
    """Builds the run of a configuration."""

    def build(config: RunConfig) -> Run:
        data = partition(load(config.data), config.data, holdout=config.holdout)
        return Run(config, data, device=torch.device("cpu"))

    return build
