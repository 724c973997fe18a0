"""A linear probe of finished runs, as settings."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from polyak.data.config import DataConfig
from polyak.errors import ConfigError
from polyak.training.config.optim import unknown_settings
from polyak.training.config.run import RunConfig, digest, without_defaults


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """A linear classifier on frozen backbones, with the paper's settings."""

    data: DataConfig
    """The target."""

    backbones: tuple[RunConfig, ...]
    """The runs whose arms are probed."""

    arms: tuple[str, ...]
    """Which of each run's arms."""

    epochs: int = 50
    batch_size: int = 128
    lr: float = 0.01
    """The learning rate, under the name that config.json has for it."""

    momentum: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    """The paper does not say; the authors' code uses cosine."""

    seed: int = 0
    """Of the heads' initialisation and the order of samples, the same for all backbones."""

    batchnorm: Literal["frozen", "adapts"] = "frozen"
    """frozen: features in eval mode, computed once. adapts: BatchNorm normalises by the batch and
    its running statistics follow the target while the head is trained, as in the authors' code."""

    def check(self) -> None:
        """Raise a ConfigError that names every fault."""
        faults = self.data.faults()
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                faults.append(f"{name} is {getattr(self, name)!r}; expected >= 1")
        if not self.lr > 0:
            faults.append(f"lr is {self.lr!r}; expected > 0")
        if not self.backbones or not self.arms:
            faults.append("backbones or arms is empty; expected at least one of each")
        if not 0 <= self.momentum < 1:
            faults.append(f"momentum is {self.momentum!r}; expected 0 <= momentum < 1")
        if any(data.is_text for data in (self.data, *(run.data for run in self.backbones))):
            faults.append("a data set is text; expected images to probe on and backbones of images")
        faults += unknown_settings(self)
        if faults:
            raise ConfigError.of("probe", faults)

    def record(self) -> dict[str, Any]:
        """The configuration as plain JSON values, backbones by their ids."""
        values = {key: getattr(self, key) for key in self.__slots__ if key not in _COMPOSED}
        return {
            "kind": "probe",
            **without_defaults(values),
            "data": without_defaults(asdict(self.data)),
            "backbones": [run.id for run in self.backbones],
        }

    @property
    def id(self) -> str:
        """Name of the probe's folder."""
        return digest(self.record())


_COMPOSED = ("data", "backbones")
