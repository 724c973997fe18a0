"""The optimiser of a model's weights and its learning rate at every step."""

from collections.abc import Callable, Sequence
from math import cos, pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from polyak.errors import ConfigError
from polyak.training.config.optim import OptimConfig


def learning_rate(step: int, config: OptimConfig, *, steps_per_epoch: int, epochs: int) -> float:
    """Learning rate of a step.

        lr·s/W                           for s < W      (at s = 0: 1e-8·lr)
        lr·(1 + cos(π·(s − W)/(S − W)))/2               after it, with schedule "cosine"
        lr, then lr·(1 − x) or lr·(1 − √x)              with "wsd", x the share of its decay

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
    if config.schedule == "wsd":
        left = epochs * steps_per_epoch
        share = max(0.0, 1 - (left - step) / (config.decay_share * left))
        return config.lr * (1 - (share if config.decay_shape == "linear" else sqrt(share)))
    if config.schedule == "held":
        assert config.hold_epoch is not None
        step = min(step, config.hold_epoch * steps_per_epoch)
    share = (step - warmup) / (epochs * steps_per_epoch - warmup)
    return config.lr * cosine(share)


def cosine(share: float) -> float:
    """(1 + cos(π·share))/2: from 1 where a decay begins to 0 where it ends."""
    return (1 + cos(pi * share)) / 2


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """An optimiser of all parameters that train; its learning rate is set before every step.

    On a GPU SGD is one kernel, and the learning rate lies there, where a CUDA graph reads it. On a
    CPU that kernel would save a five-hundredth of ResNet-20's step and round differently.

    Raises:
        ConfigError: for muon, if the network has no matrices between its ends.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.name == "muon":
        return _muon(model, parameters, config)
    if config.name == "adamw":
        return torch.optim.AdamW(
            _groups(parameters, config),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
    device = parameters[0].device
    on_gpu = device.type == "cuda"
    return torch.optim.SGD(
        _groups(parameters, config),
        lr=torch.tensor(config.lr, device=device) if on_gpu else config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
        fused=True if on_gpu else None,
    )


class Together(torch.optim.Optimizer):
    """Optimisers of different parameters as one: their groups and their state are its own."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        groups = [group for part in parts for group in part.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.param_groups = groups
        self.parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of each."""
        assert closure is None
        for part in self.parts:
            part.step()


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """For the next step; nothing waits for the GPU."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def _groups(parameters: Sequence[Tensor], config: OptimConfig) -> list[dict[str, Any]]:
    """The parameters that decay, then those that do not; only groups that are not empty."""
    kept = config.decayed == "matrices"
    decayed = [p for p in parameters if not kept or p.ndim >= 2]
    others = [p for p in parameters if kept and p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _muon(model: nn.Module, parameters: Sequence[Tensor], config: OptimConfig) -> Together:
    """Muon for matrices between the ends, by Moonshot's rule at AdamW's rates; AdamW for the rest.

    Source:
        Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv:2502.16982, for the scale.
    """
    ends = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    ends |= {id(p) for name, p in model.named_parameters() if name.startswith("head.")}
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in ends]
    if not matrices:
        raise ConfigError(
            "optim.name is 'muon' for a network without matrices between its ends; expected a "
            "transformer or a perceptron. Take sgd or adamw: torch's Muon has no convolutions."
        )
    of_muon = {id(p) for p in matrices}
    rest = _groups([p for p in parameters if id(p) not in of_muon], config)
    muon = torch.optim.Muon(
        matrices,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        rest, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
    return Together(muon, adamw)
