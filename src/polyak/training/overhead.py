"""What averaging costs the training loop, measured: steps, evaluations and memory.

Every case is a run of its own in the study's loop, on the same data and from the same seed. All
of them train an epoch in each round, in an order drawn anew, so that whatever else the machine
does falls on all alike.
"""

import random
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from polyak.data import Partition
from polyak.records.timings import Timing, Timings
from polyak.training.config import OverheadConfig
from polyak.training.fused_batchnorm import FusedModel
from polyak.training.loop import Run
from polyak.training.prediction import predict, score

OnRound = Callable[[], None]


class _Case:
    """One bank beside a run."""

    def __init__(
        self,
        config: OverheadConfig,
        size: int,
        every: int | None,
        data: Partition,
        device: torch.device,
    ) -> None:
        averaging = replace(
            config.run.averaging,
            # Without averages the loop still wants one to hold; it is never stepped.
            decays=config.run.averaging.decays[-max(size, 1) :],
            every=every or 1,
            # In warm-up several averages are one, and are evaluated once.
            warmup="none",
            swa=False,
        )
        own = replace(config.run, averaging=averaging, epochs=config.rounds + 1)
        self.size, self.every = size, every
        self.run = Run(own, data, device=device, averaged=size > 0)
        assert data.holdout_images_nchw is not None
        assert data.holdout_given_n is not None
        self._labels_n = data.holdout_given_n
        self._images_nchw = self.run.images.normalise(data.holdout_images_nchw)
        self._fused = FusedModel(self.run.model)
        self.steps_seconds: list[float] = []
        self.evaluation_seconds: list[float] = []

    def round(self, number: int, clock: Callable[[], float]) -> None:
        started = clock()
        self.run.train_only(number)
        trained = clock()
        self._evaluate()
        evaluated = clock()
        self.steps_seconds.append(trained - started)
        self.evaluation_seconds.append(evaluated - trained)

    def _evaluate(self) -> None:
        if self.size:
            self.run.evaluation.holdout(self.run.averager)
        else:
            # As averages are evaluated.
            module, precision = self._fused.load(), self.run.precision
            logits_nk = predict(module, self._images_nchw, precision=precision)
            score(logits_nk.cpu(), self._labels_n)

    def timing(self) -> Timing:
        """What the rounds after the first said."""
        held: dict[str, dict[str, Tensor]] = self.run.averager.state_dict()["tensors"]
        size = sum(x.nbytes for of_one in held.values() for x in of_one.values())
        return Timing(
            averages=self.size,
            every=self.every,
            steps_seconds=tuple(self.steps_seconds[1:]),
            evaluation_seconds=tuple(self.evaluation_seconds[1:]),
            bytes=size if self.size else 0,
        )


def measure(
    config: OverheadConfig, data: Partition, *, device: torch.device, on_round: OnRound
) -> Timings:
    """Train all cases side by side and time them.

    Args:
        config: What to measure.
        data: Of `config.run`, with its hold-out.
        device: Where. On a CPU the seconds are those of the process, which others do not
            lengthen; else wall time, with the device waited for.
        on_round: Called between rounds; may raise to leave.
    """
    clock = time.process_time if device.type == "cpu" else _waiting(device)
    cases = [_Case(config, size, every, data, device) for size, every in config.cases()]
    draws = random.Random(config.run.seed)
    run = cases[0].run
    for number in range(1, config.rounds + 2):
        for case in draws.sample(cases, len(cases)):
            case.round(number, clock)
            for other in cases:
                # What the first has chosen: ways of taking a step would be compared otherwise.
                other.run.use_backend(case.run.backend)
        on_round()
    return Timings(
        cases=tuple(case.timing() for case in cases),
        clock="CPU" if device.type == "cpu" else "wall",
        steps=run.steps_per_epoch,
        batch_size=config.run.batch_size,
        train_images=len(data.train_images_nchw),
        holdout_images=len(
            run.data.holdout_images_nchw if run.data.holdout_images_nchw is not None else ()
        ),
        parameters=sum(p.numel() for p in run.model.parameters()),
        environment=run.environment(),
    )


def _waiting(device: torch.device) -> Callable[[], float]:
    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
