"""The one training loop. What experiments vary is its configuration."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from polyak.averaging import Averager, Uniform
from polyak.data import Partition
from polyak.errors import NonFiniteError
from polyak.models import build
from polyak.records.runs import EpochRecord, MonitorRecord, Score
from polyak.records.vocabulary import BASELINE, RULES, Stop
from polyak.training.backends import choose_backend, settle_kernels
from polyak.training.config import RunConfig
from polyak.training.evaluation import Evaluation
from polyak.training.extra_averages import more_bank, of_use
from polyak.training.optim import build_optimizer, learning_rate, set_learning_rate
from polyak.training.prediction import Augmentation, memory_format_for
from polyak.training.randomness import generator, seed_for
from polyak.training.selection import choose_stop
from polyak.training.steps import Backend, Step, build_step

State = dict[str, Tensor]
OnEpoch = Callable[[EpochRecord], None]
OnRest = Callable[[], None]
"""Called whenever the run stands between two steps and can be written down; may raise."""


def _go_on() -> None:
    """What happens between two steps where nobody asks."""


class DivergedError(Exception):
    """Loss or logits are no longer numbers; the run ends here."""

    def __init__(self, epoch: int, step: int) -> None:
        """`step`, from 1, is the first whose loss is not finite, or after which logits are not."""
        super().__init__(f"loss or logits are not finite in epoch {epoch}, step {step}")
        self.epoch = epoch
        self.step = step


@dataclass(slots=True)
class Kept:
    """Weights of SGD and of every average at a stop; stops of one epoch share them."""

    stop: Stop
    weights: dict[str, State]


@dataclass(slots=True)
class Trained:
    """What a run leaves in memory when its last epoch is over."""

    model: nn.Module
    """With SGD's last weights, in eval mode."""

    last: dict[str, State]
    """SGD's last weights as "sgd", averages of other kinds by name, such as "swa"."""

    kept: dict[str, Kept]
    """By rule."""

    epochs: list[EpochRecord] = field(default_factory=list)
    monitors: list[MonitorRecord] = field(default_factory=list)


class Run:
    """A model in training, its averages, and what it has recorded so far.

    Averaging and evaluating read the SGD weights and never change them or draw from the
    generators of order and augmentation.
    """

    def __init__(self, config: RunConfig, data: Partition, *, device: torch.device) -> None:
        channels, size = data.train_images_nchw.shape[1:3]
        self.config = config
        self.data = data
        self.device = device
        self.precision = config.precision_on(device.type)
        settle_kernels(device, self.precision)
        model = build(
            config.model,
            classes=len(data.classes),
            channels=channels,
            image_size=size,
            generator_seed=seed_for(config.seed, "initialisation"),
        )
        layout = memory_format_for(model, image_size=size, device=device)
        self.model = model.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub omits it
        self.optimizer = build_optimizer(self.model, config.optim)
        self.steps_per_epoch = -(-len(data.train_given_n) // config.batch_size)
        self.averager = Averager(
            self.model,
            config.averaging.averages(),
            every=config.averaging.every,
            buffers=config.averaging.buffers,
            # The loop itself notices a divergence and ends there.
            nonfinite="allow",
        )
        # Uniform over epoch ends: one update an epoch, counted once half the budget is over.
        half = config.epochs // 2 * self.steps_per_epoch
        self.swa = (
            Averager(
                self.model,
                [Uniform(start=half, name="swa")],
                every=self.steps_per_epoch,
                nonfinite="allow",
            )
            if config.averaging.swa
            else None
        )
        self.more = more_bank(self.model, config, steps_per_epoch=self.steps_per_epoch)
        # What is stepped after the optimizer.
        banks = (self.averager, self.swa, self.more)
        self.banks = tuple(bank for bank in banks if bank is not None)
        self.augmentation = Augmentation(
            data, config.data.crop_padding, config.data.flip, device, layout
        )
        self.evaluation = Evaluation(self.augmentation, config)
        self.order = generator(config.seed, "order")
        self.draws = generator(config.seed, "augmentation")
        self.step = 0
        self.batch = 0
        """Batches of the epoch under way that are done; at most all of them."""
        self.order_at_start = self.order.get_state()
        self.losses = torch.zeros(self.steps_per_epoch, device=device)
        """Of each batch of the epoch under way; divergence is found in it without waiting."""
        self.right = torch.zeros((), device=device, dtype=torch.long)
        self.backend: Backend | None = None
        """How steps are taken: chosen at the first, or read from a checkpoint."""
        self._take_step: Step | None = None
        self.trained = Trained(self.model, {}, {})
        self.seconds_before = 0.0
        """Seconds of earlier sittings."""
        self._started = time.monotonic()
        # Dropout draws from torch's own generator; nothing else in the loop does.
        self.set_own_generators: Callable[[], object] = partial(
            torch.manual_seed, seed_for(config.seed, "dropout")
        )

    def seconds(self) -> float:
        """Time of all sittings so far."""
        return self.seconds_before + time.monotonic() - self._started

    def train(self, on_epoch: OnEpoch, *, on_rest: OnRest = _go_on) -> Trained:
        """All epochs that are left; `on_epoch` is called with each record as it comes.

        Raises:
            DivergedError: when an epoch's loss, or what its weights say, is not finite.
        """
        self.set_own_generators()
        for epoch in range(len(self.trained.epochs) + 1, self.config.epochs + 1):
            train = self._train_epoch(epoch, on_rest)
            try:
                self._record(epoch, train)
            except NonFiniteError as error:
                raise DivergedError(epoch, self.step) from error
            self._keep()
            self._bootstrap(epoch)
            self.batch = 0
            on_epoch(self.trained.epochs[-1])
            on_rest()
        self.model.eval()
        self.trained.last = {BASELINE: _weights(self.model)}
        if self.swa is not None:
            self.trained.last["swa"] = self.swa.tensors("swa")
        self.trained.last |= of_use(self.more)
        return self.trained

    def train_only(self, epoch: int) -> Score:
        """An epoch of steps that evaluates, records and keeps nothing: for measuring them."""
        self.batch = 0
        return self._train_epoch(epoch)

    def _train_epoch(self, epoch: int, on_rest: OnRest = _go_on) -> Score:
        self.model.train()
        if self.batch == 0:
            self.order_at_start = self.order.get_state()
            self.right.zero_()
        batches = self.augmentation.batches(
            self.config.batch_size, order=self.order, draws=self.draws, skip=self.batch
        )
        for x_bchw, labels_b in batches:
            self._train_batch(x_bchw, labels_b)
            on_rest()
        broken = torch.nonzero(~torch.isfinite(self.losses))
        if len(broken):
            begun = self.step - self.steps_per_epoch
            raise DivergedError(epoch, begun + int(broken[0]) + 1)
        n = len(self.data.train_given_n)
        loss_sum = self.losses.double().sum() * self.config.batch_size
        # The last batch may be short.
        short = self.steps_per_epoch * self.config.batch_size - n
        loss_sum -= self.losses[-1].double() * short
        return Score(loss=loss_sum.item() / n, accuracy=self.right.item() / n)

    def _train_batch(self, x_bchw: Tensor, labels_b: Tensor) -> None:
        if self._take_step is None:
            self._take_step = self._chosen_step(x_bchw, labels_b)
        set_learning_rate(self.optimizer, self._learning_rate(self.step))
        loss, right = self._take_step(x_bchw, labels_b)
        self.step += 1
        for bank in self.banks:
            bank.step()
        self.losses[self.batch] = loss
        self.right += right
        self.batch += 1

    def _chosen_step(self, x_bchw: Tensor, labels_b: Tensor) -> Step:
        precision = self.precision
        if self.backend is None:
            build = partial(build_optimizer, config=self.config.optim)
            batch = (x_bchw, labels_b)
            self.backend = choose_backend(self.model, build, batch, precision=precision)
        return build_step(
            self.backend, self.model, self.optimizer, device=self.device, precision=precision
        )

    def _learning_rate(self, step: int) -> float:
        return learning_rate(
            step,
            self.config.optim,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.config.epochs,
        )

    def _record(self, epoch: int, train: Score) -> None:
        holdout = self.evaluation.holdout(self.averager) if self.config.holdout else {}
        bn_safe = self.config.holdout and self.config.selection == "bn_safe"
        holdout_bn = self.evaluation.holdout_bn(self.averager) if bn_safe else {}
        monitors = self.evaluation.monitors(self.averager, epoch)
        self.trained.monitors += monitors
        self.trained.epochs.append(
            EpochRecord(
                epoch=epoch,
                step=self.step,
                learning_rate=self._learning_rate(self.step - 1),
                train=train,
                seconds=self.seconds(),
                holdout=holdout,
                holdout_bn=holdout_bn,
            )
        )

    def _keep(self) -> None:
        """Keep all weights of this epoch if a rule stops here (so far, in a search)."""
        epoch = self.trained.epochs[-1].epoch
        stops = [stop for stop in self._stops() if stop.epoch == epoch]
        weights = self._all_weights() if stops else {}
        self.trained.kept |= {stop.rule: Kept(stop, weights) for stop in stops}

    def _bootstrap(self, epoch: int) -> None:
        """Let SGD go on from an average; what was evaluated last stays what the run ends with."""
        if self.config.bootstrap is not None and epoch < self.config.epochs:
            self.model.load_state_dict(self.averager.tensors(self.config.bootstrap))

    def _stops(self) -> tuple[Stop, ...]:
        if not self.config.holdout:
            return self.config.stops
        names = self.config.averaging.names
        chosen = partial(
            choose_stop,
            self.trained.epochs,
            averages=names,
            selection=self.config.selection,
            paper_code=self.config.paper_code,
        )
        return tuple(chosen(rule=rule) for rule in RULES)

    def _all_weights(self) -> dict[str, State]:
        averages = {name: self.averager.tensors(name) for name in self.averager.names}
        return {BASELINE: _weights(self.model), **averages, **of_use(self.more, at_any_time=True)}


def _weights(model: nn.Module) -> State:
    return {key: x.detach().clone() for key, x in model.state_dict().items()}
