"""Everything that a run needs to go on, as tensors and JSON values, and back again.

The position may be anywhere between two steps. Within an epoch the generator of the order is
kept as it was at the epoch's start, since it draws once, and the batches done are skipped; all
others are kept as they are. So nothing is drawn or computed twice.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from polyak.averaging import Averager
from polyak.averaging.storage.state_dict import flattened, unflattened
from polyak.records.runs import epoch_record, monitor_record
from polyak.training.loop import Run

Groups = dict[str, dict[str, Tensor]]


def tensors_of(run: Run) -> Groups:
    """All tensors but the kept weights; references, by group and name."""
    momenta = {
        str(index): state["momentum_buffer"]
        for index, state in run.optimizer.state_dict()["state"].items()
        if state.get("momentum_buffer") is not None
    }
    groups: Groups = {
        "model": run.model.state_dict(),
        "momentum": momenta,
        "generators": {name: g.get_state() for name, g in _generators(run).items()},
        "epoch": {"order": run.order_at_start, "losses": run.losses, "right": run.right},
        "torch": _own_generators(run.device),
    }
    return groups | {name: flattened(bank.state_dict()) for name, bank in _banks(run).items()}


def facts_of(run: Run) -> dict[str, Any]:
    """All plain values."""
    states = {name: bank.state_dict() for name, bank in _banks(run).items()}
    return {
        "step": run.step,
        "batch": run.batch,
        "backend": run.backend,
        "seconds": run.seconds(),
        "epochs": [asdict(record) for record in run.trained.epochs],
        "monitors": [asdict(record) for record in run.trained.monitors],
        "banks": {
            name: {"history": state["history"], "averages": state["averages"]}
            for name, state in states.items()
        },
    }


@torch.no_grad()
def restore(run: Run, groups: Mapping[str, Mapping[str, Tensor]], facts: dict[str, Any]) -> None:
    """Bring a run that was just built to where another was; kept weights are not the matter."""
    run.model.load_state_dict(dict(groups["model"]))
    for index, parameter in enumerate(run.optimizer.param_groups[0]["params"]):
        if str(index) in groups["momentum"]:
            # In the parameter's own layout, as the optimizer would have made it.
            buffer = torch.empty_like(parameter).copy_(groups["momentum"][str(index)])
            run.optimizer.state[parameter]["momentum_buffer"] = buffer
    for name, bank in _banks(run).items():
        bank.load_state_dict(unflattened(groups[name], facts["banks"][name]))
    for name, generator in _generators(run).items():
        generator.set_state(groups["generators"][name])
    if facts["batch"]:
        run.order.set_state(groups["epoch"]["order"])
    run.order_at_start = groups["epoch"]["order"].clone()
    run.losses.copy_(groups["epoch"]["losses"])
    run.right.copy_(groups["epoch"]["right"])
    run.step, run.batch = facts["step"], facts["batch"]
    run.backend = facts["backend"]
    run.seconds_before = facts["seconds"]
    run.trained.epochs = [epoch_record(line) for line in facts["epochs"]]
    run.trained.monitors = [monitor_record(line) for line in facts["monitors"]]
    own = dict(groups["torch"])
    run.set_own_generators = lambda: _set_own_generators(own, run.device)


def _banks(run: Run) -> dict[str, Averager]:
    banks = {"averager": run.averager, "swa": run.swa, "more": run.more}
    return {name: bank for name, bank in banks.items() if bank is not None}


def _generators(run: Run) -> dict[str, torch.Generator]:
    return {"order": run.order, "augmentation": run.draws, **run.evaluation.generators}


def _own_generators(device: torch.device) -> dict[str, Tensor]:
    """torch's own, from which dropout draws."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_own_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
