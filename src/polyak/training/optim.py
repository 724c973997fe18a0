"""The optimiser and its learning rate at every step."""

from math import cos, pi

import torch
from torch import nn

from polyak.training.config.optim import OptimConfig


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
