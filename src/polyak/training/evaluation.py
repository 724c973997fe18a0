"""What is measured after each epoch: the hold-out for selection, monitors for figures."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from polyak.averaging import Averager
from polyak.data.device_images import DeviceImages
from polyak.records.runs import MonitorRecord, Score
from polyak.records.vocabulary import BASELINE, Monitor
from polyak.training.config import RunConfig
from polyak.training.fused_batchnorm import FusedModel
from polyak.training.prediction import BATCHNORM_BATCH, predict, score
from polyak.training.randomness import generator
from polyak.training.steps import lowered

Batches = Iterator[tuple[Tensor, Tensor]]


class Evaluation:
    """Scores SGD and every average of a bank on the parts of a run's data.

    Images are normalised once and stay on the device. Evaluating draws from generators of its
    own and leaves weights, statistics and train flags as they were. Averages that warm-up still
    holds equal are evaluated once. All are evaluated by one module with BatchNorm fused into the
    convolutions, in the run's precision.
    """

    def __init__(self, images: DeviceImages, config: RunConfig) -> None:
        self._images = images
        self._config = config
        self._bn_order = generator(config.seed, "batchnorm order")
        self._bn_draws = generator(config.seed, "batchnorm augmentation")
        self._holdout_draws = generator(config.seed, "holdout augmentation")
        self.batchnorm_images = config.batchnorm_images
        """Training images of a recomputation; None: all."""
        self._fused: FusedModel | None = None
        self._precision = config.precision_on(images.device.type)
        data = images.data
        self._parts: dict[str, Tensor] = {}
        if data.holdout_images_nchw is not None:
            self._parts["holdout"] = images.normalise(data.holdout_images_nchw)
        if _wanted(config, "test"):
            self._parts["test"] = images.normalise(data.test_images_nchw)
        if _wanted(config, "train"):
            self._parts["train"] = images.normalise(data.train_images_nchw)

    @property
    def generators(self) -> dict[str, torch.Generator]:
        """Its generators by purpose, for checkpoints."""
        found = {"batchnorm order": self._bn_order, "batchnorm augmentation": self._bn_draws}
        if "holdout-images" in self._config.paper_code:
            found["holdout augmentation"] = self._holdout_draws
        return found

    def holdout(self, averager: Averager) -> dict[str, Score]:
        """Scores on the hold-out's given labels, statistics as averaged."""
        if "holdout-images" in self._config.paper_code:
            self._parts["holdout"] = self._images.augment_holdout(self._holdout_draws)
        return self._scores(averager, "holdout")

    def holdout_bn(self, averager: Averager) -> dict[str, Score]:
        """The same with the averages' statistics recomputed."""
        with self._refreshed(averager):
            return self._scores(averager, "holdout")

    def monitors(self, averager: Averager, epoch: int) -> list[MonitorRecord]:
        """The declared monitors' records for an epoch."""
        wanted = self._config.monitors
        found: dict[Monitor, dict[str, Score]] = {}
        if "test" in wanted:
            found["test"] = self._scores(averager, "test")
        if any(m.startswith("train_") for m in wanted):
            found |= self._memorised(averager)
        if any(m.endswith("_bn") for m in wanted):
            with self._refreshed(averager):
                found |= {
                    monitor: self._scores(averager, part)
                    for monitor, part in _REFRESHED.items()
                    if monitor in wanted
                }
        return [
            MonitorRecord(epoch=epoch, monitor=monitor, scores=found[monitor]) for monitor in wanted
        ]

    def batchnorm_batches(self) -> Batches:
        """One pass over the run's training part, for recomputation.

        Where only some images are taken they and their crops are the same after every epoch, so
        that what the others would have changed is the same for all epochs.
        """
        order, draws = self._bn_order, self._bn_draws
        if self.batchnorm_images is not None:
            order = generator(self._config.seed, "batchnorm order")
            draws = generator(self._config.seed, "batchnorm augmentation")
        augmented = self._config.batchnorm_augmentation == "on"
        return self._images.batches(BATCHNORM_BATCH, order=order, draws=draws, augmented=augmented)

    @contextmanager
    def _refreshed(self, averager: Averager) -> Iterator[None]:
        """Recompute the averages' statistics for the length of the block."""
        with lowered(self._images.device, self._precision)():
            averager.refresh_batchnorm(
                self.batchnorm_batches(),
                sorted(set(_twins(averager).values())),
                max_samples=self.batchnorm_images,
                pooled="batchnorm" not in self._config.paper_code,
            )
        yield
        averager.drop_refreshed()

    def _scores(self, averager: Averager, part: str) -> dict[str, Score]:
        data = self._images.data
        clean = self._config.holdout_labels == "clean"
        held_n = data.holdout_clean_n if clean else data.holdout_given_n
        labels_n = data.test_labels_n if part == "test" else held_n
        assert labels_n is not None
        return {name: score(x, labels_n) for name, x in self._logits(averager, part)}

    def _memorised(self, averager: Averager) -> dict[Monitor, dict[str, Score]]:
        """Scores on the training part: all given labels, the right ones, the wrong ones."""
        data = self._images.data
        given_n, clean_n = data.train_given_n, data.train_clean_n
        wrong_n = given_n != clean_n
        everything = torch.ones_like(wrong_n)
        subsets: dict[Monitor, Tensor] = {
            "train_given": everything,
            "train_clean": ~wrong_n,
            "train_wrong": wrong_n,
        }
        found: dict[Monitor, dict[str, Score]] = {monitor: {} for monitor in subsets}
        for name, logits_nk in self._logits(averager, "train"):
            for monitor, chosen_n in subsets.items():
                if chosen_n.any():
                    found[monitor][name] = score(logits_nk[chosen_n], given_n[chosen_n])
        return found

    def _logits(self, averager: Averager, part: str) -> Iterator[tuple[str, Tensor]]:
        images_nchw = self._parts[part]
        twins = _twins(averager)
        known: dict[str, Tensor] = {}
        # Not before the first use: a run that evaluates nothing needs no second module.
        fused = self._fused = self._fused or FusedModel(averager.model)
        for name in (BASELINE, *averager.names):
            twin = twins.get(name, name)
            if twin not in known:
                with nullcontext() if twin == BASELINE else averager.applied(twin):
                    logits_nk = predict(fused.load(), images_nchw, precision=self._precision)
                known[twin] = logits_nk.cpu()
            yield name, known[twin]


def _twins(averager: Averager) -> dict[str, str]:
    """For every average one that equals it so far, the same for all of a group."""
    twins = {name: name for name in averager.names}
    for group in averager.coinciding():
        twins |= dict.fromkeys(group, group[0])
    return twins


_REFRESHED: dict[Monitor, str] = {"test_bn": "test", "holdout_bn": "holdout"}


def _wanted(config: RunConfig, part: str) -> bool:
    return any(monitor.startswith(part) for monitor in config.monitors)
