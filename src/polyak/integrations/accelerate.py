"""Averages with Accelerate: counted by the prepared optimizer, saved with the rest of the state."""

from typing import Any

import torch

from polyak.averaging import Averager
from polyak.averaging.optimizer_hooks.attachment import Attachment
from polyak.errors import ConfigError


def register(
    accelerator: Any, averager: Averager, *optimizers: torch.optim.Optimizer
) -> Attachment:
    """Attach an averager to prepared optimizers, and save and load it with the accelerator.

    A step counts when the optimizer took it: calls of `optimizer.step()` that
    `accelerator.accumulate` passes over do not count, nor do steps that the scaler skipped. Of
    several optimizers a step counts when the last has stepped. `accelerator.save_state` refuses
    to write while an average is applied, before it has written anything;
    `accelerator.load_state` goes on exactly, mid-period too.

    Args:
        accelerator: The `accelerate.Accelerator` that prepared model and optimizers.
        averager: Built from the prepared model.
        optimizers: As `accelerator.prepare` gave them, or the torch optimizers in them.

    Returns:
        A handle whose `remove()` ends the counting.

    Raises:
        ConfigError: where each process has only shards of the weights.
        StateError: for an optimizer that is attached already.

    Example::

        model, optimizer = accelerator.prepare(model, optimizer)
        averager = polyak.Averager(model, [0.998], every=16)
        register(accelerator, averager, optimizer)
    """
    refuse_sharded(accelerator)
    attachment = averager.attach(*optimizers)
    accelerator.register_for_checkpointing(averager)

    def refuse_while_applied(*_: Any) -> None:
        averager.state_dict()

    accelerator.register_save_state_pre_hook(refuse_while_applied)
    return attachment


def refuse_sharded(state: Any) -> None:
    """Refuse what Accelerate's state says of the processes, unless each has the whole weights."""
    kind = state.distributed_type.value
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ConfigError(
            f"distributed_type is {kind}; expected one that leaves every process the whole "
            "weights, such as MULTI_GPU. Shard with FSDP2 in a loop of your own, which "
            "polyak.Averager supports."
        )
