"""A cache of its own, and a study of one small row."""

import pytest

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig


@pytest.fixture(scope="session")
def study_cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True, scope="module")
def cache(study_cache_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(study_cache_folder))
        yield


@pytest.fixture
def row() -> Row:
    digits = DataConfig(train_limit=90, test_limit=40, crop_padding=1)
    parity = DataConfig(source="digits-parity", train_limit=60, test_limit=40, crop_padding=0)
    return Row(
        label="small digits",
        dataset="digits",
        architecture="ResNet-8",
        config=RunConfig(
            data=digits,
            model=ModelConfig(name="resnet8", width=4),
            optim=OptimConfig(warmup_epochs=1),
            averaging=AveragingConfig(decays=(0.2, 0.9), every=2),
            epochs=3,
            batch_size=32,
        ),
        learning_rates=(0.05, 0.1),
        seeds=(0, 1),
        paper_decays=(0.968, 0.998),
        transfer=(parity,),
    )


@pytest.fixture
def study(row) -> Study:
    return Study(name="small", title="A small study", cost="moments", rows=(row,))
