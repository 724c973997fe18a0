"""Optimisers of a model's weights, by their settings."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyak.errors import ConfigError
from polyak.training.optim import OptimConfig


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
        groups = _groups(parameters, config)
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    device = parameters[0].device
    on_gpu = device.type == "cuda"
    return torch.optim.SGD(
        _groups(parameters, config),
        lr=torch.tensor(config.lr, device=device) if on_gpu else config.lr,
        momentum=config.momentum,
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
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
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
    return Together(muon, torch.optim.AdamW(rest, lr=config.lr, betas=config.betas))
