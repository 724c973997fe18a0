"""A finished run, read from its folder.

Shape suffixes: n images, c channels, h height, w width, k classes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polyak import metrics
from polyak.analysis.results import bins_for
from polyak.data import Partition, partition, prepare
from polyak.data import load as load_data
from polyak.data.device_images import DeviceImages
from polyak.data.normalisation import Normalisation, normalise
from polyak.errors import ConfigError, FileError, unknown
from polyak.models import build
from polyak.records.cards import Card, read_card
from polyak.records.predictions import Predictions
from polyak.records.runs import EpochRecord, MonitorRecord, RunFolder
from polyak.training.config import RunConfig
from polyak.training.config_file import read_run_config
from polyak.training.jobs import card_of, usable_device
from polyak.training.logits import CHUNK, arm_weights, kept_arms
from polyak.training.machine import memory_format_for
from polyak.training.prediction import predict, recompute_statistics

Part = Literal["test", "holdout"]
"""What a run has logits of, beside classes of its training images."""


def load(path: str | os.PathLike[str]) -> "Run":
    """Read a finished run from its folder; the folder is not changed.

    Args:
        path: Such as `out/runs/0123456789ab`.

    Raises:
        FileError: if it is no folder of a training run, or damaged.
        StateError: if the run has not ended, or diverged.

    Example:
        >>> load("absent")
        Traceback (most recent call last):
        ...
        polyak.errors.FileError: run is 'absent'; expected the folder of a run. `polyak train` ...
    """
    where = Path(path)
    if not (where / "config.json").is_file():
        raise FileError(
            f"run is {os.fspath(path)!r}; expected the folder of a run. `polyak train` prints it, "
            "and those of a study are named in its plan.json."
        )
    folder = RunFolder(where)
    arms = tuple(kept_arms(folder))
    return Run(folder=folder, config=read_run_config(where / "config.json"), arms=arms)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run. Everything is read when it is asked for, and compared with its checksum."""

    folder: RunFolder
    config: RunConfig
    """The settings; `config.data`, `.model`, `.optim` and `.averaging` have those of the parts."""

    arms: tuple[str, ...]
    """Names of the sets of weights that were kept: `sgd`, `ema_acc_bn`, …"""

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def id(self) -> str:
        """Name of the folder: a hash of what determines the result."""
        return self.config.id

    @cached_property
    def card(self) -> Card:
        """Classes, image shape and normalisation, also where the data set is not at hand.

        Raises:
            DataError: for a run that was trained before there were cards, if its data is missing.
        """
        return read_card(self.folder) or card_of(self.data)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.card.classes

    @property
    def normalisation(self) -> Normalisation:
        """From pixels 0..255 to what networks of this run take: (pixel/255 − mean)/std."""
        return Normalisation(self.card.mean, self.card.std)

    @cached_property
    def data(self) -> Partition:
        """What the run trained on and was tested on, images as uint8; decoded if need be.

        Raises:
            DataError: if the data set is not there, or has changed.
        """
        config = prepare(self.config.data)
        return partition(load_data(config), config, holdout=self.config.holdout)

    @property
    def epochs(self) -> list[EpochRecord]:
        """A record an epoch: training loss, hold-out scores of SGD and every average."""
        return self.folder.epochs()

    @property
    def monitors(self) -> list[MonitorRecord]:
        """What was evaluated each epoch for figures alone."""
        return self.folder.monitors()

    def about(self, arm: str) -> dict[str, Any]:
        """What an arm's file says of itself: `source` (whose weights), `epoch`, `rule`, …

        Raises:
            FileError: if the run kept no such arm.
        """
        return arm_weights(self.folder, arm)[1]

    def network(
        self,
        arm: str,
        *,
        batchnorm: Literal["saved", "recomputed"] = "saved",
        device: str | torch.device = "cpu",
    ) -> nn.Module:
        """The network with an arm's weights, in eval mode, without gradients.

        It takes images that are normalised by `normalisation`, (n, c, h, w), and gives logits
        (n, k).

        Args:
            arm: One of `arms`.
            batchnorm: "saved": statistics as they lie in the arm's file; of arms that end in
                `_bn` they were recomputed, of others they are those of training or of averaging.
                "recomputed": from the run's training data, as `_bn` arms got theirs.
            device: Where to put it.

        Raises:
            ConfigError: for a device that this machine has not, or a network's file that changed.
            DataError: for "recomputed", if the data set is not there.
            FileError: if the run kept no such arm.
        """
        network = self.network_of(arm_weights(self.folder, arm)[0], device=device)
        if batchnorm == "recomputed":
            self.recompute_statistics(network)
        return network

    def network_of(
        self, weights: Mapping[str, Tensor], *, device: str | torch.device = "cpu"
    ) -> nn.Module:
        """As `network`, with weights under the keys of its `state_dict()`, such as a mixture."""
        channels, size, _ = self.card.image_shape
        network = build(
            self.config.model,
            classes=len(self.classes),
            channels=channels,
            image_size=size,
            generator_seed=0,
        )
        network.load_state_dict(dict(weights))
        network.requires_grad_(False).eval()
        usable = usable_device(str(device))
        layout = self._layout(network, usable)
        network.to(usable, memory_format=layout)  # type: ignore[call-overload]  # torch's stub omits it
        return network

    def recompute_statistics(self, network: nn.Module) -> None:
        """Give a network of this run BatchNorm statistics of its weights, as `_bn` arms got theirs.

        Raises:
            DataError: if the run's data set is not there.
        """
        data, device = self.config.data, next(network.parameters()).device
        layout = self._layout(network, device)
        images = DeviceImages(self.data, data.crop_padding, data.flip, device, layout)
        recompute_statistics(network, images, self.config)

    def predict(self, network: nn.Module, images_nchw: Tensor) -> Tensor:
        """Logits of images by a network of this run, computed as the run's own were.

        Args:
            network: Of `network(arm)`.
            images_nchw: uint8, of the shape that the run was trained on; not augmented.

        Returns:
            Shape (n, k), float32, on the CPU. Their softmax has no temperature.

        Raises:
            ConfigError: for images of another shape or dtype.
            NonFiniteError: if a logit is NaN or infinite.
        """
        wanted, got = self.card.image_shape, tuple(images_nchw.shape[1:])
        if images_nchw.dtype != torch.uint8 or got != wanted:
            raise ConfigError(
                f"images are {images_nchw.dtype} {got}; expected torch.uint8 {wanted}, as in "
                "training. Resize or convert them."
            )
        device = next(network.parameters()).device
        factors = self.normalisation.factors(device)
        layout = self._layout(network, device)
        precision = self.config.saved_precision
        said = []
        for chunk in torch.split(images_nchw, CHUNK):
            ready = normalise(chunk.to(device), *factors).contiguous(memory_format=layout)
            said.append(predict(network, ready, precision=precision).cpu())
        return torch.cat(said)

    def logits(self, arm: str, part: Part = "test") -> Tensor:
        """What an arm said when the run ended, shape (n, k), float32.

        Args:
            arm: One of `arms`, or of `variants`.
            part: "test", or "holdout" of a run that kept one.

        Raises:
            FileError: if there is no such arm or part.
        """
        if arm in self.variants:
            return Predictions(self.folder.variants).logits_nk(part, arm)
        return self._said(part, arm).logits_nk(part, arm)

    def predicted(self, arm: str, part: Part | Literal["train"] = "test") -> Tensor:
        """The class that an arm said, int64, shape (n,); also of training images."""
        return self._said(part, arm).predicted_n(part, arm)

    def labels(self, part: Part | Literal["train"] = "test", *, clean: bool = False) -> Tensor:
        """Labels, int64, shape (n,): those given to the run, or the right ones where it knows."""
        kind = "labels" if part == "test" else "clean" if clean else "given"
        return Predictions(self.folder.predictions).labels_n(part, kind)

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """Every average at the stops, of which the run kept logits and no weights."""
        path = self.folder.variants
        return Predictions(path).arms("test") if path.exists() else ()

    def metrics(self, arm: str) -> dict[str, float]:
        """Of an arm on the test images: accuracy, loss (nats), brier, ece; without temperature."""
        logits_nk, labels_n = self.logits(arm), self.labels()
        return {
            "accuracy": metrics.accuracy(logits_nk, labels_n),
            "loss": metrics.cross_entropy(logits_nk, labels_n),
            "brier": metrics.brier(logits_nk, labels_n),
            "ece": metrics.ece(logits_nk, labels_n, bins=bins_for(len(labels_n))),
        }

    def studies(self) -> tuple[str, ...]:
        """Names of the studies in the same output folder that this run belongs to."""
        out = self.path.resolve().parent.parent
        texts = {
            plan.parent.name: plan.read_text(encoding="utf-8", errors="replace")
            for plan in sorted(out.glob("*/plan.json"))
        }
        return tuple(name for name, text in texts.items() if f'"{self.id}"' in text)

    def _said(self, part: str, arm: str) -> Predictions:
        said = Predictions(self.folder.predictions)
        if part not in said:
            raise FileError(
                f"part is {part!r}; expected one that the run in {self.path} has. Runs without a "
                "hold-out have test and train."
            )
        if arm not in said.arms(part):
            raise FileError(unknown("arm", arm, said.arms(part)))
        return said

    def _layout(self, network: nn.Module, device: torch.device) -> torch.memory_format:
        return memory_format_for(network, image_size=self.card.image_shape[1], device=device)
