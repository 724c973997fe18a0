"""One epoch of a study, ours and as it is usually written.

The study is the same for all: SGD with Nesterov momentum, crops of a padded image and flips,
batches of 128 with the short last one, five EMAs updated every 16 steps, hold-out scores of SGD
and of every average, and, where asked for, those of the averages with recomputed BatchNorm
statistics.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, Dataset, Subset

from polyak.data import DataConfig, Partition
from polyak.data.normalisation import Normalisation
from polyak.models import ModelConfig, build
from polyak.training.config import PAPER_DECAYS as DECAYS
from polyak.training.config import AveragingConfig, Precision, RunConfig
from polyak.training.loop import Run
from polyak.training.machine import keep_freed_memory
from polyak.training.optim import OptimConfig

EVERY = 16
BATCH = 128
USUAL_EVALUATION_BATCH = 100
SUBSET = 2048
PADDING = 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Setting:
    """What all of them train on, and where."""

    images: int
    """Of which a fifth is held out."""

    model: str
    device: str
    size: int
    loader_workers: int
    """Of the loaders of those that have loaders."""

    @property
    def training(self) -> int:
        """Images to train on."""
        return self.images - self.images // 5

    def network(self) -> nn.Module:
        """The network with its first weights."""
        return build(
            ModelConfig(name=self.model),
            classes=10,
            channels=3,
            image_size=self.size,
            generator_seed=0,
        )

    def pixels(self) -> tuple[Tensor, Tensor]:
        """Images of noise, uint8, and labels: the time does not depend on what they show."""
        draws = torch.Generator().manual_seed(0)
        shape = (self.images, 3, self.size, self.size)
        images_nchw = torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8)
        return images_nchw, torch.randint(0, 10, (self.images,), generator=draws)


class Subject(Protocol):
    """One way to write the study."""

    def train(self) -> None:
        """One epoch of training with averages."""

    def evaluate(self) -> None:
        """Hold-out loss and accuracy of all six."""

    def recompute(self, images: int | None) -> None:
        """BatchNorm statistics of the averages on so many images (None: all), their scores."""

    def watch(self, timed: Callable[[str, Any], Any]) -> None:
        """Have the parts of an epoch timed: `timed(part, call)` is a call that counts itself."""


class Ours:
    """The study's own loop.

    Args:
        setting: What it trains on.
        precision: What it computes in.
        evaluated_in: What it evaluates in after an epoch, where that is another.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        precision: Precision = "float32",
        evaluated_in: Precision | None = None,
    ) -> None:
        images_nchw, labels_n = setting.pixels()
        n = setting.training
        data = Partition(
            train_images_nchw=images_nchw[:n],
            train_given_n=labels_n[:n],
            train_clean_n=labels_n[:n],
            train_index_n=torch.arange(n),
            holdout_images_nchw=images_nchw[n:],
            holdout_given_n=labels_n[n:],
            holdout_clean_n=labels_n[n:],
            holdout_index_n=torch.arange(n, setting.images),
            test_images_nchw=images_nchw[:1],
            test_labels_n=labels_n[:1],
            classes=tuple("0123456789"),
            normalisation=Normalisation(MEAN, STD),
        )
        config = RunConfig(
            data=DataConfig(crop_padding=PADDING),
            model=ModelConfig(name=setting.model),
            optim=OptimConfig(lr=0.1),
            # Without warm-up, or averages that coincide would be evaluated once.
            averaging=AveragingConfig(decays=DECAYS, every=EVERY, warmup="none", swa=False),
            batch_size=BATCH,
            monitors=("holdout_bn",),
            precision=precision,
        )
        # As every run does when it begins.
        keep_freed_memory()
        self.device = torch.device(setting.device)
        self.run = Run(config, data, device=self.device)
        # No setting of runs: it shows what a part of the gain is.
        self.run.evaluation._precision = evaluated_in or precision

    def train(self) -> None:
        self.run.batch = 0
        self.run._train_epoch(1)

    def evaluate(self) -> None:
        self.run.evaluation.holdout(self.run.averager)

    def recompute(self, images: int | None) -> None:
        self.run.evaluation.batchnorm_images = images
        self.run.evaluation.monitors(self.run.averager, 1)

    def watch(self, timed: Callable[[str, Any], Any]) -> None:
        run = self.run
        own = type(run.images).batches

        def batches(*args: Any, **options: Any) -> Iterator[Any]:
            return pieces(own(*args, **options), timed)

        type(run.images).batches = batches
        run.optimizer.step = timed("optimizer", run.optimizer.step)
        run.averager.step = timed("averaging", run.averager.step)


class Usual:
    """A plain loop as many are written: loader, one image at a time, an averaged model each."""

    def __init__(self, setting: Setting, *, precision: Precision = "float32") -> None:
        torch.manual_seed(0)
        self.lowered = partial(
            torch.autocast, setting.device, torch.bfloat16, enabled=precision == "bfloat16"
        )
        self.device = torch.device(setting.device)
        self.model = setting.network().to(self.device)
        images_nchw, labels_n = setting.pixels()
        n = setting.training
        options = {"num_workers": setting.loader_workers, "pin_memory": setting.device != "cpu"}
        options |= {"persistent_workers": setting.loader_workers > 0}
        training = Images(images_nchw[:n], labels_n[:n], training=True)
        holdout = Images(images_nchw[n:], labels_n[n:], training=False)
        self.loader = DataLoader(training, BATCH, shuffle=True, **options)
        some = Subset(training, range(min(SUBSET, n)))
        self.some_loader = DataLoader(some, BATCH, shuffle=True, **options)
        self.holdout = DataLoader(holdout, USUAL_EVALUATION_BATCH, **options)
        self.optimizer = sgd(self.model)
        self.averages = [averaged(self.model, d) for d in DECAYS]
        self.update = self._update
        self.batches: Callable[[], Iterable[Any]] = lambda: self.loader
        self.steps = 0

    def train(self) -> None:
        self.model.train()
        loss_sum = right = 0
        for images, labels in self.batches():
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            with self.lowered():
                logits = self.model(images)
                loss = F.cross_entropy(logits, labels)
            loss.backward()
            self.optimizer.step()
            self.steps += 1
            if self.steps % EVERY == 0:
                self.update()
            loss_sum += loss.item() * len(labels)
            right += (logits.argmax(1) == labels).sum().item()

    def _update(self) -> None:
        for average in self.averages:
            average.update_parameters(self.model)

    def evaluate(self) -> None:
        for model in (self.model, *self.averages):
            self._score(model)

    def recompute(self, images: int | None) -> None:
        for average in self.averages:
            update_bn(self.loader if images is None else self.some_loader, average, self.device)
            self._score(average)

    @torch.no_grad()
    def _score(self, model: nn.Module) -> None:
        model.eval()
        loss_sum = right = 0
        for images, labels in self.holdout:
            images, labels = images.to(self.device), labels.to(self.device)
            with self.lowered():
                logits = model(images)
            loss_sum += F.cross_entropy(logits.float(), labels, reduction="sum").item()
            right += (logits.argmax(1) == labels).sum().item()

    def watch(self, timed: Callable[[str, Any], Any]) -> None:
        self.batches = lambda: pieces(self.loader, timed)
        self.optimizer.step = timed("optimizer", self.optimizer.step)
        self.update = timed("averaging", self.update)


class Images(Dataset):
    """Images and labels, one at a time, transformed as torchvision's transforms do."""

    def __init__(self, images_nchw: Tensor, labels_n: Tensor, *, training: bool) -> None:
        self.images_nchw, self.labels_n, self.training = images_nchw, labels_n, training
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.labels_n)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image_chw = self.images_nchw[index]
        if self.training:
            size = image_chw.shape[1]
            padded = F.pad(image_chw, (PADDING,) * 4)
            top, left = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
            image_chw = padded[:, top : top + size, left : left + size]
            if torch.rand(()).item() < 0.5:
                image_chw = image_chw.flip(2)
        return image_chw.float().div(255).sub(self.mean).div(self.std), int(self.labels_n[index])


def sgd(model: nn.Module) -> torch.optim.SGD:
    """The optimizer as it is usually built."""
    return torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """torch's own average; averaging integer buffers would raise, so buffers are copied."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)


def pieces(batches: Iterable[Any], timed: Callable[[str, Any], Any]) -> Iterator[Any]:
    """The batches, the waiting for each counted as input."""
    following = timed("input", iter(batches).__next__)
    while True:
        try:
            yield following()
        except StopIteration:
            return
