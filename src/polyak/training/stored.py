"""A run's configuration, read back from its folder."""

from collections.abc import Mapping
from typing import Any

from polyak.averaging import load as load_weights
from polyak.data import DataConfig, NoiseConfig
from polyak.errors import FileError, StateError, unknown
from polyak.models import ModelConfig
from polyak.records.runs import RunFolder
from polyak.training.config import AveragingConfig, RunConfig, Stop
from polyak.training.optim import OptimConfig


def run_config(record: Mapping[str, Any]) -> RunConfig:
    """The configuration that `RunConfig.record` wrote; settings it does not name have defaults.

    Raises:
        FileError: if it is of something else than a training run, or has settings that this
            version does not know.
    """
    if record.get("kind") != "train":
        raise FileError(
            f"kind of the run is {record.get('kind')!r}; expected 'train'. "
            "Give the folder of a training run, not of a linear probe."
        )
    values = {key: value for key, value in _tuples(record).items() if key != "kind"}
    try:
        data = values["data"]
        values["data"] = DataConfig(**{**data, "noise": NoiseConfig(**data["noise"])})
        values["model"] = ModelConfig(**values["model"])
        values["optim"] = OptimConfig(**values["optim"])
        values["averaging"] = AveragingConfig(**values["averaging"])
        values["stops"] = tuple(Stop(**stop) for stop in values.get("stops", ()))
        return RunConfig(**values)
    except (KeyError, TypeError) as error:
        raise FileError(
            f"the run's configuration cannot be read ({error}); expected settings that this "
            "version knows. Use the version of polyak that made the run."
        ) from error


def kept_arms(folder: RunFolder) -> list[str]:
    """The arms whose weights a finished run kept, sorted.

    Raises:
        StateError: if the run has not ended, or diverged.
    """
    if folder.ending != "done":
        raise StateError(
            f"the run in {folder.path} is {folder.ending or 'not finished'}; expected one that is "
            "done. Its averages are written when it ends."
        )
    return sorted(path.stem for path in folder.arm("sgd").parent.glob("*.safetensors"))


def arm_weights(folder: RunFolder, arm: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dict of an arm, and what its file says of it: source, epoch, rule.

    Raises:
        FileError: if the run kept no such arm, or its file is damaged.
    """
    if not folder.arm(arm).exists():
        raise FileError(unknown("arm", arm, kept_arms(folder)))
    saved = load_weights(folder.arm(arm))
    return saved[arm], saved.manifest


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that configurations hold."""
    if isinstance(value, Mapping):
        return {key: _tuples(x) for key, x in value.items()}
    return tuple(_tuples(x) for x in value) if isinstance(value, list) else value
