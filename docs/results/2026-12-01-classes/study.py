"""What a network that learned five classes of CIFAR-10 makes of the other five: table 4's question.

5,000 images (JPEG q75), ResNet-18 of a quarter of its width, bfloat16, as in
../2026-11-30-cifar10-fit with half of the images and steps.
"""

from pathlib import Path

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.records.claims import Claim, Comparison
from polyak.study.fitting import scaled_decays, updates
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

HERE = Path(__file__).parent
IMAGES, BATCH, EPOCHS, EVERY = 5_000, 64, 120, 2
ROW, TARGET = "five classes of CIFAR-10 (JPEG q75), ResNet-18 of width 16", "halves"


def study() -> Study:
    length = updates(IMAGES, batch_size=BATCH, epochs=EPOCHS, every=EVERY)
    config = RunConfig(
        data=DataConfig(source=f"{HERE / 'halves.py'}:learned", train_limit=IMAGES),
        model=ModelConfig(name="resnet18", width=16),
        # Half of the steps: twice the decay leaves the turnover as it was.
        optim=OptimConfig(weight_decay=1.7e-3, warmup_epochs=5),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=EPOCHS,
        batch_size=BATCH,
        precision="bfloat16",
        keep="chosen",
    )
    row = Row(
        label=ROW,
        dataset="five classes of CIFAR-10 (JPEG q75)",
        architecture="ResNet-18 of width 16",
        config=config,
        learning_rates=(0.2,),
        seeds=(0, 1, 2, 3),
        transfer=(
            DataConfig(
                source=f"{HERE / 'halves.py'}:others",
                train_limit=IMAGES,
                crop_padding=0,
                flip=False,
            ),
        ),
    )
    return Study(
        name="cifar10-classes",
        title="Transfer: five classes of CIFAR-10 learned, the other five probed",
        cost="three hours on one core",
        rows=(row,),
        claims=(
            Claim(
                id="features-transfer",
                sentence="Features of the average serve a linear probe of other classes better.",
                comparisons=tuple(
                    Comparison(
                        row=ROW,
                        metric="accuracy",
                        arm=arm,
                        against=against,
                        phase="transfer",
                        target=TARGET,
                        side="above",
                        bound=0.0,
                        unit="points",
                    )
                    for arm in ("ema_acc_bn", "ema_loss_bn")
                    for against in ("sgd", "sgd_at_ema")
                ),
            ),
        ),
    )
