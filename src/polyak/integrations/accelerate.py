"""Averages with Accelerate: counted by the prepared optimizer, saved with the rest of the state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from polyak.averaging import Averager
from polyak.averaging.model.weights import unwrap
from polyak.averaging.optimizer_hooks.attachment import Attachment
from polyak.errors import ConfigError
from polyak.integrations.keeper import Save, applied_name
from polyak.integrations.shard_folder import load_shards, save_shards
from polyak.integrations.shards import is_spread
from polyak.integrations.trained import RAW, put_back, trained


def register(
    accelerator: Any,
    averager: Averager,
    *optimizers: torch.optim.Optimizer,
    save: Save = "raw",
    name: str | None = None,
) -> Attachment:
    """Attach an averager to prepared optimizers, and save and load it with the accelerator.

    A step counts when the optimizer took it: calls of `optimizer.step()` that
    `accelerator.accumulate` passes over do not count, nor do steps that the scaler skipped. Of
    several optimizers a step counts when the last has stepped. `accelerator.save_state` refuses
    to write while an average is applied, before it has written anything;
    `accelerator.load_state` goes on exactly, mid-period too. With FSDP2 averages stay shards, are
    saved in a folder `averager_<n>`, and may be loaded on another number of processes.

    Args:
        accelerator: The `accelerate.Accelerator` that prepared model and optimizers.
        averager: Built from the prepared model.
        optimizers: As `accelerator.prepare` gave them, or the torch optimizers in them.
        save: "average" lets `save_state` write an average as the model's weights, once it has
            begun. The weights that are trained lie beside the averages, and `load_state` loads
            those.
        name: Of that average; it may be left out where there is one.

    Returns:
        A handle whose `remove()` ends the counting.

    Raises:
        ConfigError: for FSDP1, DeepSpeed and others that keep weights in ways of their own, for a
            name that is none, and for saving an average as the model with FSDP2.
        StateError: for an optimizer that is attached already.

    Example::

        model, optimizer = accelerator.prepare(model, optimizer)
        averager = polyak.Averager(model, 0.999)
        register(accelerator, averager, optimizer)
    """
    refuse_spread(accelerator)
    spread = is_spread(averager.model)
    chosen = applied_name(name, averager.names, save=save, called="name")
    if save == "average" and spread:
        raise ConfigError(
            "save is 'average' and the model is sharded; expected 'raw', since Accelerate writes "
            "shards before it calls hooks. Save the average by `with averager.applied(...): "
            "accelerator.save_model(model, folder)`."
        )
    attachment = averager.attach(*optimizers)
    if spread:
        _register_shards(accelerator, averager)
        return attachment
    registered = _Registered(averager, chosen if save == "average" else None)
    accelerator.register_for_checkpointing(registered)

    def before_saving(models: list[Any], weights: list[Any], folder: str) -> None:
        averager.state_dict()  # refuses while an average is applied
        if registered.saves_average():
            for i, model in enumerate(models):
                if unwrap(model) is averager.model:
                    with averager.applied(chosen):
                        weights[i] = accelerator.get_state_dict(model, unwrap=False)

    accelerator.register_save_state_pre_hook(before_saving)
    return attachment


class _Registered:
    """What Accelerate saves of averages.

    Args:
        averager: Its state, and
        name: if this average is saved as the model, the weights that were trained.
    """

    def __init__(self, averager: Averager, name: str | None) -> None:
        self._averager = averager
        self._name = name

    def saves_average(self) -> bool:
        """Whether there is an average that has begun and is saved as the model."""
        return self._name is not None and self._averager.has_begun(self._name)

    def state_dict(self) -> dict[str, Any]:
        """What an exact continuation needs."""
        own = {RAW: trained(self._averager)} if self.saves_average() else {}
        return {**self._averager.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on; Accelerate has loaded the model's own file before."""
        put_back(self._averager.model, state)
        self._averager.load_state_dict(state)


def _register_shards(accelerator: Any, averager: Averager) -> None:
    """Save and load what each process holds in a folder beside Accelerate's own."""
    number = len(accelerator._save_model_state_pre_hook)
    name = f"averager_{number}"
    accelerator.register_save_state_pre_hook(
        lambda models, weights, folder: save_shards(Path(folder, name), averager, raw=False)
    )
    accelerator.register_load_state_pre_hook(
        lambda models, folder: load_shards(Path(folder, name), averager)
    )


def refuse_spread(state: Any) -> None:
    """Refuse what Accelerate's state says of the processes, if they hold no weights to average.

    That is all but whole weights and the DTensors of FSDP2.

    Raises:
        ConfigError: for FSDP1, DeepSpeed, Megatron-LM and XLA.
    """
    kind = state.distributed_type.value
    whole = kind == "NO" or kind.startswith("MULTI_")
    if whole or (kind == "FSDP" and _fsdp_version(state) == 2):
        return
    why = {
        "FSDP": " (version 1), whose flat parameters have no names of their own",
        "DEEPSPEED": ", whose ZeRO stages train copies of the weights in buffers of their own",
    }.get(kind, "")
    raise ConfigError(
        f"distributed_type is {kind}{why}; expected weights that are whole on every process, such "
        "as MULTI_GPU, or DTensors. Shard with FSDP2: fsdp_version=2 of "
        "FullyShardedDataParallelPlugin, or fsdp_version: 2 in the configuration of `accelerate`."
    )


def _fsdp_version(state: Any) -> int:
    # An Accelerator has a state, and the Trainer's optimizers have the state itself.
    plugin = getattr(getattr(state, "state", state), "fsdp_plugin", None)
    return int(getattr(plugin, "fsdp_version", 1))
