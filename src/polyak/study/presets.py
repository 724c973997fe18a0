"""The studies that have a name, each a function whose docstring says what it costs."""

from collections.abc import Callable

from polyak.data import DataConfig, NoiseConfig
from polyak.errors import ConfigError, unknown
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study, scaled_decays
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig


def demo() -> Study:
    """The whole protocol in small: scikit-learn's digits with 40 % of the labels wrong.

    Nine search runs, three refits and a probe of ResNet-8: about two minutes on two cores.
    """
    config = RunConfig(
        data=DataConfig(
            source="digits",
            crop_padding=1,
            flip=False,
            noise=NoiseConfig(kind="symmetric", rate=0.4),
        ),
        model=ModelConfig(name="resnet8", width=16),
        optim=OptimConfig(weight_decay=5e-4),
        # 30 epochs of 36 steps
        averaging=AveragingConfig(decays=scaled_decays(540), every=2),
        epochs=30,
        batch_size=32,
    )
    row = Row(
        label="digits, 40 % wrong labels",
        dataset="digits",
        architecture="ResNet-8",
        config=config,
        learning_rates=(0.1, 0.2, 0.4),
        refit_monitors=("test", "test_bn", "train_clean", "train_wrong"),
        transfer=(DataConfig(source="digits-parity", crop_padding=0, flip=False),),
    )
    return Study(
        name="demo",
        title="The paper's protocol in small, on handwritten digits with wrong labels",
        cost="two minutes on two cores",
        rows=(row,),
    )


PRESETS: dict[str, Callable[[], Study]] = {"demo": demo}


def preset(name: str) -> Study:
    """A study by its name.

    Raises:
        ConfigError: for an unknown name, with the choices and the nearest match.
    """
    if name not in PRESETS:
        raise ConfigError(unknown("study", name, PRESETS))
    return PRESETS[name]()
