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


def momenta_of(optimizer: torch.optim.Optimizer) -> State:
    """Momentum buffers by the index of their parameter; none for one without a step."""
    return {
        str(index): state["momentum_buffer"]
        for index, state in optimizer.state_dict()["state"].items()
        if state.get("momentum_buffer") is not None
    }


@torch.no_grad()
def restore_momenta(optimizer: torch.optim.Optimizer, momenta: Mapping[str, Tensor]) -> None:
    """Give parameters the momenta that `momenta_of` found."""
    for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
        if str(index) in momenta:
            # In the parameter's own layout, as the optimizer would have made it.
            buffer = torch.empty_like(parameter).copy_(momenta[str(index)])
            optimizer.state[parameter]["momentum_buffer"] = buffer


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
