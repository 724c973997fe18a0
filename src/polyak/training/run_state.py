"""What a run holds beside its configuration and data, and the parts of it that torch cannot give.

The position may be anywhere between two steps. Within an epoch the generator of the order is
kept as it was at the epoch's start, since it draws once, and the batches done are skipped; all
others are kept as they are. So nothing is drawn or computed twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from polyak.records.runs import EpochRecord, MonitorRecord
from polyak.records.vocabulary import Stop

State = dict[str, Tensor]

_MOMENTUM = "momentum_buffer"


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


class RunState(TypedDict):
    """Everything that a run needs to go on."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """By group and name."""

    facts: dict[str, Any]
    """JSON values."""

    kept: dict[str, Kept]
    """Weights kept at the stops so far, by rule."""


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> State:
    """What an optimiser holds of each parameter, by the parameter's place and the tensor's name.

    A momentum has the place alone ("7"), as in the first checkpoints; others a name beside it
    ("7.exp_avg"). None for a parameter without a step.
    """
    return {
        _key(place, name): x
        for place, parameter in enumerate(_parameters(optimizer))
        for name, x in optimizer.state.get(parameter, {}).items()
        if x is not None
    }


@torch.no_grad()
def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give parameters what `optimizer_tensors` found."""
    parameters = _parameters(optimizer)
    for key, x in tensors.items():
        place, _, name = key.partition(".")
        parameter = parameters[int(place)]
        # In the parameter's own layout, as the optimizer would have made it.
        held = torch.empty_like(parameter).copy_(x) if x.shape == parameter.shape else x.clone()
        optimizer.state[parameter][name or _MOMENTUM] = held


def _key(place: int, name: str) -> str:
    return str(place) if name == _MOMENTUM else f"{place}.{name}"


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def torch_generators(device: torch.device) -> State:
    """States of torch's own generators, from which dropout draws."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_torch_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set torch's own generators to what `torch_generators` found."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
