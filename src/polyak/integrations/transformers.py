"""Averages in the Trainer of transformers: a callback, and a mixin that evaluates an average."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from polyak.averaging import Average, Averager
from polyak.errors import ConfigError, StateError, warn
from polyak.integrations.accelerate import refuse_sharded
from polyak.integrations.keeper import Keeper, Options
from polyak.integrations.statefile import load_state, save_state

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "polyak.integrations.transformers needs the package 'transformers', which is not "
        "installed; expected the extra of polyak that brings it. "
        'Run `pip install "polyak[integrations]"`.'
    ) from error

__all__ = ["FILE", "AveragedEvaluation", "Averaging", "restore"]

FILE = "averager.safetensors"
"""What a checkpoint's folder keeps the averages in."""


class Averaging(TrainerCallback):
    """Keeps averages of the weights that a `transformers.Trainer` trains.

    Steps that gradient accumulation passes over or GradScaler skips do not count. Each
    `checkpoint-<step>` folder gets the file `averager.safetensors` beside the model's own
    weights, and `train(resume_from_checkpoint=…)` goes on from it exactly, mid-period too. After
    `load_best_model_at_end` the averages are those of the best checkpoint, as the weights are.
    Each `train` begins an averager of its own.

    No callback is called before an evaluation. So it is `AveragedEvaluation` that evaluates the
    average during training; afterwards `with averaging.applied(): trainer.evaluate()` does too.

    Args:
        averages: Decays or kinds, as of `polyak.Averager`.
        every: Optimizer steps per update, ≥ 1.
        apply: Name of the average to evaluate, such as "ema_0.998"; None evaluates the model's
            own weights.
        resume: Whether training from a checkpoint takes its averages over; False begins anew.
        resume_from: The checkpoint's folder; None means `checkpoint-<step>` in `output_dir`,
            which is right for `resume_from_checkpoint=True`. `AveragedEvaluation` sets it.
        options: `buffers`, `dtype`, `device` and `nonfinite` of `polyak.Averager`.

    Raises:
        ConfigError: for settings outside their range; when training begins, for FSDP and DeepSpeed.
        StateError: when training goes on from a checkpoint that holds no averages.

    Example:
        >>> averaging = Averaging([0.99, 0.998], every=16, apply="ema_0.998")
        >>> averaging.averager is None  # until training begins
        True
    """

    def __init__(
        self,
        averages: Sequence[float | Average],
        *,
        every: int = 1,
        apply: str | None = None,
        resume: bool = True,
        resume_from: str | os.PathLike[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._keeper = Keeper(averages, every=every, apply=apply, resume=resume, options=options)
        self.resume_from = resume_from

    @property
    def averager(self) -> Averager | None:
        """The bank; None before training begins."""
        return self._keeper.averager

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model hold the average that `apply` names for the length of the block.

        Until that average has taken in some weights the model keeps its own.
        """
        lending = self._keeper.lending
        self._keeper.lend()
        try:
            yield
        finally:
            if not lending:
                self._keeper.take_back()

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any
    ) -> None:
        """Build the averager, now that the weights are loaded and the optimizer is prepared."""
        refuse_sharded(optimizer.accelerator_state)
        self._keeper.forget()
        if state.global_step:
            self._load(self.resume_from or _folder(args, state))
        self._keeper.begin(model, resuming=state.global_step > 0)
        self._keeper.attach([optimizer])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the averages beside the checkpoint that was just written."""
        # A search keeps its checkpoints in folders of its trials and goes on from none.
        if state.is_world_process_zero and not state.is_hyper_param_search and self.averager:
            save_state(self.averager, Path(_folder(args, state), FILE))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count no further steps; follow the weights back to the best checkpoint."""
        self._keeper.detach()
        if not (args.load_best_model_at_end and state.best_model_checkpoint and self.averager):
            return
        if Path(state.best_model_checkpoint, FILE).is_file():
            restore(self.averager, state.best_model_checkpoint)
            return
        # Not worth losing the end of a long training for.
        warn(
            f"{state.best_model_checkpoint} holds no averages; expected {FILE}. The averages are "
            "those of the last step, the model's weights those of the best.",
        )

    def _load(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder, FILE)
        if self._keeper.resume and not path.is_file():
            raise StateError(
                f"{path} does not exist; expected the averages of the training that goes on. "
                "Pass their folder as resume_from=, or resume=False to begin them here."
            )
        if self._keeper.resume:
            self._keeper.load(load_state(path))


class AveragedEvaluation:
    """Mixin for a Trainer: `evaluate` and `predict` see the average that `Averaging` names.

    It stands before the Trainer among the bases. The model has its own weights and modes back
    afterwards, also after an exception, and what the Trainer then saves are its own.

    Example:
        >>> from transformers import Trainer
        >>> class AveragedTrainer(AveragedEvaluation, Trainer): ...
    """

    callback_handler: Any

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        """As the Trainer's; tells the callback which folder training goes on from."""
        named = isinstance(resume_from_checkpoint, str | os.PathLike)
        for averaging in self._averagings():
            averaging.resume_from = resume_from_checkpoint if named else None
        trainer: Any = super()
        return trainer.train(resume_from_checkpoint, *args, **options)

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """As the Trainer's, with the average in the model."""
        trainer: Any = super()
        with ExitStack() as lent:
            for averaging in self._averagings():
                lent.enter_context(averaging.applied())
            return trainer.evaluation_loop(*args, **options)

    def _averagings(self) -> list[Averaging]:
        found = [x for x in self.callback_handler.callbacks if isinstance(x, Averaging)]
        if not found:
            raise ConfigError(
                "the Trainer has no Averaging callback; expected one to say what to evaluate. "
                "Pass callbacks=[Averaging(…)]."
            )
        return found


def restore(averager: Averager, folder: str | os.PathLike[str]) -> None:
    """Bring an averager to the state in a checkpoint's folder.

    Raises:
        ConfigError: if the saved bank has other averages or another period.
        FileError: if the file is missing or damaged.
    """
    averager.load_state_dict(load_state(Path(folder, FILE)))


def _folder(args: Any, state: Any) -> str:
    return os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
