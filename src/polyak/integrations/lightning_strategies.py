"""What averages need of Lightning's strategies and no hook gives: what is saved, and shards."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from torch import Tensor

from polyak.errors import ConfigError
from polyak.integrations.keeper import Keeper
from polyak.integrations.shard_folder import save_shards
from polyak.integrations.shards import is_spread

_WHY_NOT = {
    "FSDPStrategy": "FSDP1, whose flat parameters have no names of their own",
    "DeepSpeedStrategy": "whose ZeRO stages train copies of the weights in buffers of their own",
}
_EXPECTED = (
    "expected weights that are whole on every process, as with DDP, or DTensors. Shard with FSDP2: "
    "strategy=ModelParallelStrategy() and fully_shard in configure_model()."
)


def refuse(strategy: Any) -> None:
    """Refuse strategies of which no process has weights that can be averaged.

    Raises:
        ConfigError: for FSDP1, DeepSpeed, and what else spreads weights in a way of its own.
    """
    # Lightning restores those that spread weights after setting up.
    if not strategy.restore_checkpoint_after_setup or _is_model_parallel(strategy):
        return
    names = _classes(strategy)
    why = next((f", {_WHY_NOT[name]}" for name in names if name in _WHY_NOT), "")
    raise ConfigError(f"strategy is {names[0]}{why}; {_EXPECTED}")


def writes_folders(strategy: Any) -> bool:
    """Whether checkpoints are folders into which every process writes its shards."""
    return _is_model_parallel(strategy) and bool(strategy._save_distributed_checkpoint)


def folder_of(checkpoint: Any, key: str) -> Path | None:
    """Where a checkpoint that is a folder keeps a callback's averages; None if it has none."""
    folder = None if checkpoint is None else Path(checkpoint, key.replace("/", "_"))
    return folder if folder is not None and folder.is_dir() else None


def save_average(strategy: Any, keeper: Keeper, followed: Callable[[], bool]) -> None:
    """Let a strategy give the average wherever it gives the model's weights to be saved.

    Hooks do not see checkpoints of weights only, nor who writes them when.

    Args:
        strategy: Of a Trainer.
        keeper: Whose average.
        followed: Whether the callback is still the Trainer's.
    """

    def around(own: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        @wraps(own)
        def lightning_module_state_dict() -> dict[str, Any]:
            if not followed():
                return own()
            with keeper.lent():
                state = own()
                # Shards hold the average for the length of this block only.
                lasting = keeper.averager is None or not is_spread(keeper.averager.model)
                return state if lasting else _clones(state)

        return lightning_module_state_dict

    _replace(strategy, "lightning_module_state_dict", keeper, around)


def save_shards_beside(
    strategy: Any, keeper: Keeper, followed: Callable[[], bool], *, key: str
) -> None:
    """Let a strategy that writes folders write the averages into them, as shards too."""

    def around(own: Callable[..., None]) -> Callable[..., None]:
        @wraps(own)
        def save_checkpoint(checkpoint: dict[str, Any], filepath: Any, **options: Any) -> None:
            whole = "optimizer_states" in checkpoint
            own(checkpoint, filepath, **options)
            if not (whole and followed()) or keeper.averager is None:
                return
            folder = Path(strategy.broadcast(filepath), key.replace("/", "_"))
            with keeper.own_weights():
                save_shards(folder, keeper.averager, raw=keeper.saves_average())

        return save_checkpoint

    _replace(strategy, "save_checkpoint", keeper, around)


def _replace(strategy: Any, name: str, keeper: Keeper, around: Callable[[Any], Any]) -> None:
    """Replace a method of this one strategy, once for each keeper."""
    method = getattr(strategy, name)
    keepers = getattr(method, "keepers", ())
    if not any(x is keeper for x in keepers):
        replaced = around(method)
        replaced.keepers = (*keepers, keeper)
        setattr(strategy, name, replaced)


def _clones(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: x.clone() if isinstance(x, Tensor) else x for name, x in state.items()}


def _is_model_parallel(strategy: Any) -> bool:
    """Whether this is Lightning's strategy of FSDP2 and tensor parallelism."""
    return "ModelParallelStrategy" in _classes(strategy)


def _classes(strategy: Any) -> list[str]:
    return [cls.__name__ for cls in type(strategy).__mro__]
