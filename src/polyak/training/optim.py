"""The optimiser and its learning rate at every step."""

from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import nn

from polyak.errors import unknown

Schedule = Literal["cosine", "step", "held", "constant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """SGD with Nesterov momentum: linear warm-up, then a schedule.

    Defaults are the paper's; `lr` is meant to be searched. It is the learning rate, under the name
    that config.json and the command line have for it.
    """

    lr: float = 0.4
    """Peak learning rate for the batch size as given: never rescaled behind your back."""

    momentum: float = 0.9
    """Nesterov momentum, in [0, 1)."""

    weight_decay: float = 1e-4
    """L2 coefficient added to the gradient, BatchNorm and biases included."""

    warmup_epochs: float = 5.0
    """Length of the linear rise to `lr`. Epochs, fractions allowed."""

    schedule: Schedule = "cosine"
    """After warm-up: cosine to 0; step: ÷ `drop` at each of `milestones`; held: cosine until
    `hold_epoch`, then unchanged; constant."""

    milestones: tuple[float, ...] = ()
    """Epochs at which schedule "step" drops. Fractions allowed."""

    drop: float = 5.0
    """Divisor of schedule "step"."""

    hold_epoch: int | None = None
    """Epoch from which schedule "held" keeps its learning rate."""

    def faults(self) -> list[str]:
        """All settings outside their range."""
        found = []
        if not self.lr > 0:
            found.append(f"lr is {self.lr!r}; expected > 0")
        if not 0 <= self.momentum < 1:
            found.append(f"momentum is {self.momentum!r}; expected 0 <= momentum < 1")
        if not self.weight_decay >= 0:
            found.append(f"weight_decay is {self.weight_decay!r}; expected >= 0")
        if not self.warmup_epochs >= 0:
            found.append(f"warmup_epochs is {self.warmup_epochs!r}; expected >= 0")
        if not self.drop > 1:
            found.append(f"drop is {self.drop!r}; expected > 1")
        if (self.schedule == "step") != bool(self.milestones):
            found.append(f"milestones is {self.milestones!r} with schedule {self.schedule!r}")
        if (self.schedule == "held") != (self.hold_epoch is not None):
            found.append(f"hold_epoch is {self.hold_epoch!r} with schedule {self.schedule!r}")
        elif self.hold_epoch is not None and self.hold_epoch < self.warmup_epochs:
            found.append(
                f"hold_epoch is {self.hold_epoch!r}; expected >= warmup_epochs "
                f"({self.warmup_epochs!r})"
            )
        return found + unknown_settings(self)


def unknown_settings(config: Any) -> list[str]:
    """The fields of a dataclass whose value is not among those that their type lists."""
    hints = get_type_hints(type(config))
    return [
        unknown(name, getattr(config, name), get_args(hint))
        for name, hint in hints.items()
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint)
    ]


def learning_rate(step: int, config: OptimConfig, *, steps_per_epoch: int, epochs: int) -> float:
    """Learning rate of a step.

        lr·s/W                           for s < W      (at s = 0: 1e-8·lr)
        lr·(1 + cos(π·(s − W)/(S − W)))/2               after it, with schedule "cosine"

    Args:
        step: Step s from 0.
        config: Its settings.
        steps_per_epoch: Short last batch included.
        epochs: Length of the run; S = epochs·steps_per_epoch.

    Returns:
        A learning rate in [0, lr]; the same at any later restart, since nothing accumulates.

    Source:
        The paper's section 4.1; warm-up per step from 1e-8 is the authors' code.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * max(step / warmup, 1e-8)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        drops = sum(step >= epoch * steps_per_epoch for epoch in config.milestones)
        return float(config.lr / config.drop**drops)
    if config.schedule == "held":
        assert config.hold_epoch is not None
        step = min(step, config.hold_epoch * steps_per_epoch)
    share = (step - warmup) / (epochs * steps_per_epoch - warmup)
    return config.lr * cosine(share)


def cosine(share: float) -> float:
    """(1 + cos(π·share))/2: from 1 where a decay begins to 0 where it ends."""
    return (1 + cos(pi * share)) / 2


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.SGD:
    """SGD over all parameters that train; its learning rate is set before every step.

    On a GPU it is one kernel, and the learning rate lies there, where a CUDA graph reads it. On a
    CPU that kernel would save a five-hundredth of ResNet-20's step and round differently.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    on_gpu = device.type == "cuda"
    return torch.optim.SGD(
        parameters,
        lr=torch.tensor(config.lr, device=device) if on_gpu else config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
        fused=True if on_gpu else None,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """For the next step; nothing waits for the GPU."""
    group = optimizer.param_groups[0]
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value
