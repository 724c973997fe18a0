"""Clean labels: 5,000 images of Fashion-MNIST."""

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.fitting import scaled_decays, updates
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

IMAGES, BATCH, EPOCHS, EVERY = 5_000, 64, 40, 4


def study() -> Study:
    length = updates(IMAGES, batch_size=BATCH, epochs=EPOCHS, every=EVERY)
    config = RunConfig(
        data=DataConfig(source="fashion-mnist", train_limit=IMAGES, test_limit=1_500),
        model=ModelConfig(name="resnet20", width=16),
        optim=OptimConfig(weight_decay=1e-4, warmup_epochs=3),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    row = Row(
        label="Fashion-MNIST, ResNet-20",
        dataset="Fashion-MNIST",
        architecture="ResNet-20",
        config=config,
        learning_rates=(0.2,),
        seeds=(0, 1, 2, 3),
        refit_monitors=("test",),
        follow_ups=("annealed",),
    )
    return Study(
        name="fashion-small",
        title="Clean labels: Fashion-MNIST, 5,000 images, 40 epochs, ResNet-20",
        cost="two hours on one core",
        rows=(row,),
    )
