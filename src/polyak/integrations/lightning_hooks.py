"""What the callback does at each of Lightning's hooks; imports no Lightning."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from torch import nn

from polyak.averaging import Average, Averager
from polyak.errors import ConfigError, warn
from polyak.integrations.keeper import Keeper, Options


class AveragingHooks:
    """The hooks of `polyak.integrations.lightning.Averaging`, which says what they promise."""

    def __init__(
        self,
        averages: Sequence[float | Average],
        *,
        every: int = 1,
        apply: str | None = None,
        part: str | None = None,
        resume: bool = True,
        key: str = "polyak.Averaging",
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        self._keeper = Keeper(averages, every=every, apply=apply, resume=resume, options=options)
        self._part = part
        self._key = key

    @property
    def averager(self) -> Averager | None:
        """The bank; None before training begins or averages are loaded."""
        return self._keeper.averager

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps the averages, under "callbacks"."""
        return self._key

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Build the averager, now that the weights are loaded and where they will be trained."""
        _refuse_sharded(trainer)
        model = self._model(pl_module)
        self._keeper.begin(model, resuming=trainer.ckpt_path is not None)
        self._keeper.attach(trainer.optimizers)

    def on_validation_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Lend the average."""
        self._lend(pl_module)

    def on_validation_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Give the model its own weights back, before checkpoints are written."""
        self._keeper.take_back()

    def on_test_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Lend the average."""
        self._lend(pl_module)

    def on_test_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Give the model its own weights back."""
        self._keeper.take_back()

    def on_predict_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Lend the average."""
        self._lend(pl_module)

    def on_predict_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Give the model its own weights back."""
        self._keeper.take_back()

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        """Give the model its own weights back, and count no further steps."""
        self._keeper.detach()

    def teardown(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Count no further steps."""
        self._keeper.detach()

    def state_dict(self) -> Mapping[str, Any]:
        """The averager's."""
        return self._keeper.state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the averages over once there is a model on its device, which is later."""
        self._keeper.load(state_dict)

    def on_save_checkpoint(
        self, trainer: Any, pl_module: nn.Module, checkpoint: dict[str, Any]
    ) -> None:
        """Put the model's own weights into a checkpoint that is written while one is lent."""
        if self._keeper.lending:
            with self._keeper.own_weights():
                checkpoint["state_dict"] = trainer.strategy.lightning_module_state_dict()

    def _model(self, pl_module: nn.Module) -> nn.Module:
        return pl_module if self._part is None else pl_module.get_submodule(self._part)

    def _lend(self, pl_module: nn.Module) -> None:
        model = self._model(pl_module)
        self._keeper.take_over(model)
        if self._keeper.apply is None:
            return
        if self._keeper.keeps(model):
            self._keeper.lend()
            return
        warn(
            f"there are no averages of the model, so its own weights are evaluated; expected "
            f"{self._keeper.apply!r}. Fit first, or pass a checkpoint that holds averages.",
        )


def _refuse_sharded(trainer: Any) -> None:
    # Lightning restores these after setting up: no process has more than shards of the weights.
    if trainer.strategy.restore_checkpoint_after_setup:
        raise ConfigError(
            f"strategy is {type(trainer.strategy).__name__}; expected one that leaves every "
            "process the whole weights, such as DDP. Shard with FSDP2 in a loop of your own, "
            "which polyak.Averager supports."
        )
