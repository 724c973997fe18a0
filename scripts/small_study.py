"""The smallest study with a search and a refit: what scripts here hurt, and tests kill."""

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig


def study():
    config = RunConfig(
        data=DataConfig(train_limit=90, test_limit=40, crop_padding=1),
        model=ModelConfig(name="resnet8", width=4),
        optim=OptimConfig(warmup_epochs=1),
        averaging=AveragingConfig(decays=(0.2, 0.9), every=2),
        epochs=3,
        batch_size=32,
    )
    row = Row(
        label="digits",
        dataset="digits",
        architecture="ResNet-8",
        config=config,
        learning_rates=(0.1,),
        seeds=(0, 1),
        paper_decays=(0.968, 0.998),
        search_monitors=("test",),
    )
    return Study(name="small", title="A small study", cost="moments", rows=(row,))
