"""The one training loop. What experiments vary is its configuration."""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging import Averager
from polyak.averaging.storage.state_dict import flattened, unflattened
from polyak.data import Partition
from polyak.data.device_images import DeviceImages
from polyak.errors import NonFiniteError
from polyak.models import build
from polyak.records.runs import EpochRecord, Score, epoch_record, monitor_record
from polyak.records.vocabulary import BASELINE, RULES, Stop
from polyak.training.config import RunConfig
from polyak.training.evaluation import Evaluation
from polyak.training.extra_averages import build_extra_averager, build_swa, copy_averages
from polyak.training.machine import environment, memory_format_for
from polyak.training.optim import build_optimizer, learning_rate, set_learning_rate
from polyak.training.randomness import generator, seed_for
from polyak.training.run_state import (
    Kept,
    RunState,
    State,
    Trained,
    optimizer_tensors,
    restore_optimizer,
    restore_torch_generators,
    torch_generators,
)
from polyak.training.selection import choose_stop
from polyak.training.steps import Backend, Step, build_step, choose_backend, settle_kernels

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


class Run:
    """A model in training, its averages, and what it has recorded so far.

    Averaging and evaluating read the SGD weights and never change them or draw from the
    generators of order and augmentation.

    Args:
        config: What to train, and how.
        data: What to train on.
        device: Where.
        averaged: Whether averages are updated; without, to measure what training alone takes.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Partition,
        *,
        device: torch.device,
        averaged: bool = True,
    ) -> None:
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
        self.steps_per_epoch = -(-len(data.train_images_nchw) // config.batch_size)
        self.averager = Averager(
            self.model,
            config.averaging.averages(),
            every=config.averaging.every,
            buffers=config.averaging.buffers,
            # The loop itself notices a divergence and ends there.
            nonfinite="allow",
        )
        # Having asked, it is not warned: evaluation knows which are equal, and pages say so.
        self.averager.coinciding()
        self.swa = (
            build_swa(self.model, config, steps_per_epoch=self.steps_per_epoch)
            if config.averaging.swa
            else None
        )
        self.extra = build_extra_averager(self.model, config, steps_per_epoch=self.steps_per_epoch)
        self.banks = tuple(self._banks_by_name().values()) if averaged else ()
        """What is stepped after the optimizer."""
        self.images = DeviceImages(data, config.data.crop_padding, config.data.flip, device, layout)
        self.evaluation = Evaluation(self.images, config)
        self.order = generator(config.seed, "order")
        self.draws = generator(config.seed, "augmentation")
        self.step = 0
        self.batch = 0
        """Batches of the epoch under way that are done; at most all of them."""
        self._order_at_start = self.order.get_state()
        self.losses = torch.zeros(self.steps_per_epoch, device=device)
        """Of each batch of the epoch under way; divergence is found in it without waiting."""
        self.right = torch.zeros((), device=device, dtype=torch.long)
        self.backend: Backend | None = None
        """How steps are taken: chosen at the first, or read from a checkpoint."""
        self._take_step: Step | None = None
        self.trained = Trained(self.model, {}, {})
        self._seconds_before = 0.0
        """Seconds of earlier sessions."""
        self._started = time.monotonic()
        self._torch_generators: State | None = None
        """Where torch's own generators go on, of a run that was loaded."""

    def seconds(self) -> float:
        """Time of all sessions so far."""
        return self._seconds_before + time.monotonic() - self._started

    def train(self, on_epoch: OnEpoch, *, on_rest: OnRest = _go_on) -> Trained:
        """All epochs that are left; `on_epoch` is called with each record as it comes.

        Raises:
            DivergedError: when an epoch's loss, or what its weights say, is not finite.
        """
        self._set_torch_generators()
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
        self.trained.last |= copy_averages(self.extra)
        return self.trained

    def _set_torch_generators(self) -> None:
        """Dropout draws from torch's own generators; nothing else in the loop does."""
        if self._torch_generators is None:
            torch.manual_seed(seed_for(self.config.seed, "dropout"))
        else:
            restore_torch_generators(self._torch_generators, self.device)

    def train_only(self, epoch: int) -> Score:
        """An epoch of steps that evaluates, records and keeps nothing: for measuring them."""
        self.batch = 0
        return self._train_epoch(epoch)

    def use_backend(self, backend: Backend | None) -> None:
        """Take steps as another run does, from the first on."""
        self.backend = backend

    def load_weights(self, weights: State) -> None:
        """Let the model hold other weights of the run, in eval mode, once its training is over."""
        self.model.load_state_dict(weights)
        self.model.eval()

    def environment(self) -> dict[str, Any]:
        """What decides how the run's numbers round."""
        return environment(self.device, memory_format=self.images.memory_format)

    def state_dict(self) -> RunState:
        """Everything that the run needs to go on; tensors are references, as in torch."""
        banks = {name: bank.state_dict() for name, bank in self._banks_by_name().items()}
        return RunState(
            tensors={
                "model": self.model.state_dict(),
                "momentum": optimizer_tensors(self.optimizer),
                "generators": {name: g.get_state() for name, g in self._generators().items()},
                "epoch": {
                    "order": self._order_at_start,
                    "losses": self.losses,
                    "right": self.right,
                },
                "torch": torch_generators(self.device),
                **{name: flattened(state) for name, state in banks.items()},
            },
            facts={
                "step": self.step,
                "batch": self.batch,
                "backend": self.backend,
                "seconds": self.seconds(),
                "epochs": [asdict(record) for record in self.trained.epochs],
                "monitors": [asdict(record) for record in self.trained.monitors],
                "banks": {
                    name: {"history": state["history"], "averages": state["averages"]}
                    for name, state in banks.items()
                },
            },
            kept=self.trained.kept,
        )

    def load_state_dict(self, state: RunState) -> None:
        """Bring a run that was just built to where another was."""
        tensors, facts = state["tensors"], state["facts"]
        self.model.load_state_dict(dict(tensors["model"]))
        restore_optimizer(self.optimizer, tensors["momentum"])
        for name, bank in self._banks_by_name().items():
            bank.load_state_dict(unflattened(tensors[name], facts["banks"][name]))
        for name, own in self._generators().items():
            own.set_state(tensors["generators"][name])
        epoch = tensors["epoch"]
        if facts["batch"]:
            self.order.set_state(epoch["order"])
        self._order_at_start = epoch["order"].clone()
        self.losses.copy_(epoch["losses"])
        self.right.copy_(epoch["right"])
        self.step, self.batch = facts["step"], facts["batch"]
        self.use_backend(facts["backend"])
        self._seconds_before = facts["seconds"]
        self._torch_generators = dict(tensors["torch"])
        self.trained.epochs = [epoch_record(line) for line in facts["epochs"]]
        self.trained.monitors = [monitor_record(line) for line in facts["monitors"]]
        self.trained.kept = state["kept"]

    def _banks_by_name(self) -> dict[str, Averager]:
        """All averagers, also those that are never stepped."""
        banks = {"averager": self.averager, "swa": self.swa, "more": self.extra}
        return {name: bank for name, bank in banks.items() if bank is not None}

    def _generators(self) -> dict[str, torch.Generator]:
        return {"order": self.order, "augmentation": self.draws, **self.evaluation.generators}

    def _train_epoch(self, epoch: int, on_rest: OnRest = _go_on) -> Score:
        self.model.train()
        if self.batch == 0:
            self._order_at_start = self.order.get_state()
            self.right.zero_()
        batches = self.images.batches(
            self.config.batch_size, order=self.order, draws=self.draws, skip=self.batch
        )
        for x_bchw, labels_b in batches:
            self._train_batch(x_bchw, labels_b)
            on_rest()
        broken = torch.nonzero(~torch.isfinite(self.losses))
        if len(broken):
            begun = self.step - self.steps_per_epoch
            raise DivergedError(epoch, begun + int(broken[0]) + 1)
        n = len(self.data.train_images_nchw)
        loss_sum = self.losses.double().sum() * self.config.batch_size
        # The last batch may be short.
        short = self.steps_per_epoch * self.config.batch_size - n
        loss_sum -= self.losses[-1].double() * short
        accuracy = self.right.item() / len(self.data.train_given_n)
        return Score(loss=loss_sum.item() / n, accuracy=accuracy)

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
        clip = self.config.optim.clip
        if self.backend is None:
            build = partial(build_optimizer, config=self.config.optim)
            batch = (x_bchw, labels_b)
            self.backend = choose_backend(
                self.model, build, batch, precision=self.precision, clip=clip
            )
        return build_step(
            self.backend,
            self.model,
            self.optimizer,
            device=self.device,
            precision=self.precision,
            clip=clip,
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
        return {
            BASELINE: _weights(self.model),
            **averages,
            **copy_averages(self.extra, at_stop=True),
        }


def _weights(model: nn.Module) -> State:
    return {key: x.detach().clone() for key, x in model.state_dict().items()}
