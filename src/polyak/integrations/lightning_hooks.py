"""What the callback does at each of Lightning's hooks; imports no Lightning."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Unpack

from torch import nn

from polyak.averaging import Average, Averager
from polyak.errors import ConfigError, warn
from polyak.integrations import lightning_strategies as strategies
from polyak.integrations.keeper import Keeper, Options, Save
from polyak.integrations.lightning_metrics import evaluate_once_more
from polyak.integrations.shard_folder import load_shards, put_back_shards
from polyak.integrations.shards import gathered, is_spread
from polyak.integrations.trained import put_back


class AveragingHooks:
    """The hooks of `polyak.integrations.lightning.Averaging`, which says what they promise."""

    def __init__(
        self,
        averages: float | Average | Sequence[float | Average],
        *,
        every: int = 1,
        apply: str | None = None,
        save: Save = "raw",
        both: bool = False,
        part: str | None = None,
        resume: bool = True,
        key: str = "polyak.Averaging",
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        self._keeper = Keeper(
            averages,
            every=every,
            apply=apply,
            save=save,
            both=both,
            resume=resume,
            options=options,
        )
        self._part = part
        self._key = key
        self._strategy: Any = None
        self._postponed = False
        self._beside: dict[str, Any] = {}

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
        strategies.refuse(trainer.strategy)
        self._follow(trainer)
        # A strategy that spreads weights loads them, and the callbacks' states, after this.
        self._postponed = trainer.strategy.restore_checkpoint_after_setup
        if not self._postponed:
            self._begin(trainer, pl_module)

    def on_sanity_check_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Build the averager if the weights have been loaded only now."""
        self._begin_postponed(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """The same, where there is no sanity check."""
        self._begin_postponed(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *_: Any) -> None:
        """Log what there is to say of the averages, as often as Lightning logs."""
        if trainer.loggers and trainer._logger_connector.should_update_logs:
            found = self._keeper.scalars()
            for logger in trainer.loggers:
                # The axis of what is logged in training steps.
                logger.log_metrics(found, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_validation_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Lend the average, or evaluate it beside what follows."""
        self._begin_evaluation(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Log what the average was found to be, if both are evaluated."""
        self._log_beside(pl_module)

    def on_validation_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Give the model its own weights back, before checkpoints are written."""
        self._keeper.take_back()

    def on_test_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Lend the average, or evaluate it beside what follows."""
        self._begin_evaluation(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Log what the average was found to be, if both are evaluated."""
        self._log_beside(pl_module)

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
        """The averager's, and the weights that were trained if the average is saved as the model.

        Empty where every process writes its shards into the checkpoint's folder.
        """
        strategy, averager = self._strategy, self._keeper.averager
        if averager is None or strategy is None or not is_spread(averager.model):
            return self._keeper.state()
        if strategies.writes_folders(strategy):
            return {}
        return gathered(self._keeper.state(), keep=strategy.is_global_zero)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the averages over once there is a model on its device, which is later."""
        self._keeper.load(state_dict)

    def on_save_checkpoint(
        self, trainer: Any, pl_module: nn.Module, checkpoint: dict[str, Any]
    ) -> None:
        """Put the model's own weights into a checkpoint that is written while one is lent."""
        if self._keeper.lending and self._keeper.save == "raw":
            with self._keeper.own_weights():
                checkpoint["state_dict"] = trainer.strategy.lightning_module_state_dict()

    def on_load_checkpoint(
        self, trainer: Any, pl_module: nn.Module, checkpoint: dict[str, Any]
    ) -> None:
        """Train on with the weights that were trained; take over averages that lie in shards."""
        model, fitting = self._model(pl_module), trainer.state.fn == "fit"
        folder = strategies.folder_of(trainer.ckpt_path, self._key)
        if folder is not None:
            self._keeper.load(partial(load_shards, folder))
            if fitting:
                put_back_shards(folder, model)
        elif fitting:
            put_back(model, checkpoint["callbacks"].get(self._key) or {})

    def _follow(self, trainer: Any) -> None:
        """Let the strategy save what this callback says."""

        def followed() -> bool:
            return any(callback is self for callback in trainer.callbacks)

        self._strategy = trainer.strategy
        saving = [x for x in trainer.callbacks if isinstance(x, AveragingHooks)]
        if sum(x._keeper.save == "average" for x in saving) > 1:
            raise ConfigError(
                "save is 'average' for several callbacks; expected one, since a checkpoint has one "
                "model. Leave save= out of the others."
            )
        if self._keeper.save == "average":
            strategies.save_average(trainer.strategy, self._keeper, followed)
        if strategies.writes_folders(trainer.strategy):
            strategies.save_shards_beside(trainer.strategy, self._keeper, followed, key=self._key)

    def _begin(self, trainer: Any, pl_module: nn.Module) -> None:
        self._keeper.begin(self._model(pl_module), resuming=trainer.ckpt_path is not None)
        self._keeper.attach(trainer.optimizers)

    def _begin_postponed(self, trainer: Any, pl_module: nn.Module) -> None:
        if self._postponed:
            self._postponed = False
            self._begin(trainer, pl_module)

    def _model(self, pl_module: nn.Module) -> nn.Module:
        return pl_module if self._part is None else pl_module.get_submodule(self._part)

    def _begin_evaluation(self, trainer: Any, pl_module: nn.Module) -> None:
        self._lend(pl_module)
        if self._keeper.both and not trainer.sanity_checking:
            try:
                self._beside = evaluate_once_more(trainer)
            finally:
                self._keeper.take_back()

    def _log_beside(self, pl_module: Any) -> None:
        found, self._beside = self._beside, {}
        for key, value in found.items():
            pl_module.log(f"{key}/{self._keeper.apply}", value, rank_zero_only=False)

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
