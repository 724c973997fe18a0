"""A cache of its own, and a run so small that its epochs take moments."""

import pytest
import torch

from polyak.data import DataConfig, NoiseConfig, load, partition, prepare
from polyak.models import ModelConfig
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.loop import Run
from polyak.training.optim import OptimConfig


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
    """72 training images, 18 held out: five steps an epoch, the last one short."""
    return RunConfig(
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
        epochs=3,
        batch_size=16,
    )


@pytest.fixture(scope="module")
def start():
    """Builds the run of a configuration."""

    def build(config: RunConfig) -> Run:
        data = partition(load(config.data), config.data, holdout=config.holdout)
        return Run(config, data, device=torch.device("cpu"))

    return build
