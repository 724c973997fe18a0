"""Studies that a user writes: a Python file with `study() -> Study`."""

import re
import traceback
from dataclasses import fields, replace
from pathlib import Path

from polyak.data import DataConfig, NoiseConfig
from polyak.errors import ConfigError, unknown
from polyak.models import ModelConfig
from polyak.records.claims import Claim, Comparison
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, OptimConfig, RunConfig
from polyak.userfile import load_function

EXAMPLE = '''\
"""A study of mine. Run it with `polyak study THIS_FILE`; running it runs this code."""

from torch import nn

from polyak.data import DataConfig, NoiseConfig
from polyak.models import ModelConfig
from polyak.study.fitting import scaled_decays, updates
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, OptimConfig, RunConfig

IMAGES, BATCH, EPOCHS, EVERY = 1_437, 32, 20, 2


def build(classes: int, channels: int) -> nn.Module:
    """A network of mine: images (b, channels, height, width) to logits (b, classes)."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 16, classes),
    )


def study() -> Study:
    """What to run: a search at each learning rate and seed, then a refit on all data."""
    config = RunConfig(
        # Also: fashion-mnist, a folder, a name of the hub, or file.py:load of yours.
        data=DataConfig(
            source="digits",
            crop_padding=1,
            flip=False,
            noise=NoiseConfig(kind="symmetric", rate=0.2),  # a fifth of the labels wrong
        ),
        model=ModelConfig(name=f"{__file__}:build"),  # or a name of `polyak list`
        optim=OptimConfig(weight_decay=5e-4),
        averaging=AveragingConfig(
            # The paper's decays, each with the share of this run that it has of the paper's.
            decays=scaled_decays(updates(IMAGES, batch_size=BATCH, epochs=EPOCHS, every=EVERY)),
            every=EVERY,  # optimizer steps per update
        ),
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    row = Row(
        label="digits, 20 % wrong labels",
        dataset="digits",
        architecture="mine",
        config=config,
        learning_rates=(0.05, 0.1),
        seeds=(0, 1, 2),
        refit_monitors=("test", "train_clean", "train_wrong"),
    )
    return Study(name="{name}", title="A study of mine", cost="two minutes", rows=(row,))
'''

_CLASSES = (
    Study,
    Row,
    RunConfig,
    DataConfig,
    NoiseConfig,
    ModelConfig,
    OptimConfig,
    AveragingConfig,
    Claim,
    Comparison,
)


def load_study(path: Path) -> Study:
    """The study that a file defines; its code is run.

    Raises:
        ConfigError: if there is no such file, or no function `study` in it that returns a Study,
            or with all faults of that.
    """
    function = load_function(path, "study", what="study", error=ConfigError)
    try:
        made = function()
    except TypeError as error:
        message = _wrong_fields(error, path)
        if message is None:
            raise
        raise ConfigError(message) from error
    if not isinstance(made, Study):
        raise ConfigError(
            f"study() of '{path}' returned a {type(made).__name__}; "
            "expected a polyak.study.plan.Study."
        )
    return replace(made.settled(), source=str(path.resolve()))


def _wrong_fields(error: TypeError, path: Path) -> str | None:
    """The message for a call of one of our classes with unknown or missing fields, in the file."""
    line = traceback.extract_tb(error.__traceback__)[-1]
    found = re.fullmatch(r"(\w+)\.__init__\(\) (.*)", str(error))
    kind = {each.__name__: each for each in _CLASSES}.get(found[1]) if found else None
    if found is None or kind is None or Path(line.filename).resolve() != path.resolve():
        return None
    place = f"line {line.lineno} of '{path}'"
    names = [field.name for field in fields(kind)]
    surplus = re.fullmatch(r"got an unexpected keyword argument '(\w+)'", found[2])
    if surplus:
        return f"{place}: {unknown(f'field of {kind.__name__}', surplus[1], names)}"
    return f"{place}: {kind.__name__} {found[2]}; expected its fields by name: {', '.join(names)}."


def write_example(path: Path) -> None:
    """A commented study to start from; its name is the file's.

    Raises:
        ConfigError: if something is there already.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(EXAMPLE.replace("{name}", _name_for(path)))
    except FileExistsError:
        raise ConfigError(
            f"init is '{path}'; expected a file that does not exist yet. Choose another name."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"init is '{path}'; expected a file that can be written ({error.strerror})."
        ) from error


def _name_for(path: Path) -> str:
    """A name of a study's folder, from that of its file: two files are two studies.

    Example:
        >>> _name_for(Path("my nets.py")), _name_for(Path("runs.py"))
        ('my-nets', 'study-runs')
    """
    words = re.sub(r"[^\w.+-]+|^[^A-Za-z0-9]+", "-", path.stem).strip("-") or "mine"
    usable = re.match(r"[A-Za-z0-9]", words) and words not in ("runs", "audits")
    return words if usable else f"study-{words}"
