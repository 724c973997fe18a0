"""What the callback does at each event of a Trainer, and the mixin; imports no transformers."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from polyak.averaging import Average, Averager
from polyak.averaging.model.weights import unwrap
from polyak.errors import ConfigError, StateError, warn
from polyak.integrations.accelerate import refuse_spread
from polyak.integrations.keeper import Keeper, Options, Save
from polyak.integrations.shard_folder import load_shards, save_shards
from polyak.integrations.shards import is_spread
from polyak.integrations.statefile import load_state, save_state
from polyak.integrations.trained import put_back

FILE = "averager.safetensors"
"""What a checkpoint's folder keeps the averages in."""
FOLDER = "averager"
"""What it keeps them in where each process has shards."""


class AveragingHooks:
    """The events of `polyak.integrations.transformers.Averaging`, which says what they promise."""

    def __init__(
        self,
        averages: float | Average | Sequence[float | Average],
        *,
        every: int = 1,
        apply: str | None = None,
        save: Save = "raw",
        both: bool = False,
        resume: bool = True,
        resume_from: str | os.PathLike[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.keeper = Keeper(
            averages,
            every=every,
            apply=apply,
            save=save,
            both=both,
            resume=resume,
            options=options,
        )
        self.resume_from = resume_from
        self.evaluated = False
        """Whether a Trainer with the mixin has this callback."""

    @property
    def averager(self) -> Averager | None:
        """The bank; None before training begins."""
        return self.keeper.averager

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model hold the average that `apply` names for the length of the block.

        Until that average has taken in some weights the model keeps its own.
        """
        with self.keeper.lent():
            yield

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any
    ) -> None:
        """Build the averager, now that the weights are loaded and the optimizer is prepared."""
        refuse_spread(optimizer.accelerator_state)
        if self.keeper.apply is not None and not self.evaluated:
            raise ConfigError(
                f"apply is {self.keeper.apply!r} and the Trainer cannot evaluate an average; "
                "expected one that can, since it calls no callback before an evaluation. Use "
                "`averaging = average(trainer, …)` of polyak.integrations.transformers in place "
                "of the callback, or a subclass with AveragedEvaluation."
            )
        self.keeper.forget()
        if state.global_step:
            self._load(self.resume_from or _folder(args, state), unwrap(model))
        self.keeper.begin(model, resuming=state.global_step > 0)
        self.keeper.attach([optimizer])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the averages beside the checkpoint that was just written."""
        # A search keeps its checkpoints in folders of its trials and goes on from none.
        if state.is_hyper_param_search or self.averager is None:
            return
        folder, raw = _folder(args, state), self.keeper.saves_average()
        if is_spread(self.averager.model):
            # The shards beside it, from which training goes on, are raw.
            save_shards(Path(folder, FOLDER), self.averager, raw=False)
        elif state.is_world_process_zero:
            save_state(self.averager, Path(folder, FILE), raw=raw)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count no further steps; follow the weights back to the best checkpoint."""
        self.keeper.detach()
        if not (args.load_best_model_at_end and state.best_model_checkpoint and self.averager):
            return
        best = Path(state.best_model_checkpoint)
        if not any((best / name).exists() for name in (FILE, FOLDER)):
            # Not worth losing the end of a long training for.
            warn(
                f"{best} holds no averages; expected {FILE}. The averages are those of the last "
                "step, the model's weights those of the best.",
            )
            return
        restore(self.averager, best)
        if self.keeper.saves_average():
            self.keeper.write()

    def _load(self, folder: str | os.PathLike[str], model: nn.Module) -> None:
        path, shards = Path(folder, FILE), Path(folder, FOLDER)
        there = path.is_file() or shards.is_dir()
        if self.keeper.resume and not there:
            raise StateError(
                f"{path} does not exist; expected the averages of the training that goes on. "
                "Pass their folder as resume_from=, or resume=False to begin them here."
            )
        if path.is_file():
            state = load_state(path)
            put_back(model, state)
            self.keeper.load(state)
        elif there:
            self.keeper.load(partial(load_shards, shards))


class AveragedEvaluation:
    """Mixin for a Trainer: it evaluates, and if asked saves, the average that `Averaging` names.

    It stands before the Trainer among the bases. Outside of evaluations and of `save_model` the
    model has its own weights and modes, also after an exception.

    Example:
        >>> class Trainer: ...  # of transformers
        >>> class AveragedTrainer(AveragedEvaluation, Trainer): ...
    """

    callback_handler: Any

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        """As the Trainer's; tells the callback which folder training goes on from."""
        named = isinstance(resume_from_checkpoint, str | os.PathLike)
        for averaging in self._averagings():
            averaging.resume_from = resume_from_checkpoint if named else None
            averaging.evaluated = True
        trainer: Any = super()
        return trainer.train(resume_from_checkpoint, *args, **options)

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """As the Trainer's, with the average in the model; before it without, if both count."""
        trainer: Any = super()
        both = [x for x in self._averagings() if x.keeper.both]
        own = trainer.evaluation_loop(*args, **options) if both else None
        with ExitStack() as lent:
            for averaging in self._averagings():
                lent.enter_context(averaging.applied())
            found = trainer.evaluation_loop(*args, **options)
        if own is None or not both:
            return found
        named = {f"{key}/{both[0].keeper.apply}": x for key, x in _scores(found.metrics).items()}
        return found._replace(metrics={**(own.metrics or {}), **named})

    def save_model(self, *args: Any, **options: Any) -> None:
        """As the Trainer's, with the average in the model where that is what is saved."""
        trainer: Any = super()
        with ExitStack() as lent:
            for averaging in self._averagings():
                if averaging.keeper.save == "average":
                    lent.enter_context(averaging.applied())
            trainer.save_model(*args, **options)

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """As the Trainer's, with what there is to say of the averages beside the training loss."""
        trainer: Any = super()
        rows = [x.keeper.scalars() for x in self._averagings() if "loss" in logs]
        said = {key: value for row in rows for key, value in row.items()}
        trainer.log({**logs, **said}, *args, **options)

    def _averagings(self) -> list[AveragingHooks]:
        found = [x for x in self.callback_handler.callbacks if isinstance(x, AveragingHooks)]
        if not found:
            raise ConfigError(
                "the Trainer has no Averaging callback; expected one to say what to evaluate. "
                "Pass callbacks=[Averaging(…)]."
            )
        return found


def restore(averager: Averager, folder: str | os.PathLike[str]) -> None:
    """Bring an averager to the state in a checkpoint's folder; of shards on every process.

    Raises:
        ConfigError: if the saved bank has other averages or another period.
        FileError: if the file is missing or damaged.
    """
    if Path(folder, FOLDER).is_dir():
        load_shards(Path(folder, FOLDER), averager)
    else:
        averager.load_state_dict(load_state(Path(folder, FILE)))


def _scores(metrics: dict[str, float] | None) -> dict[str, float]:
    """What is of the weights; how long the model took to be prepared is not."""
    return {k: x for k, x in (metrics or {}).items() if not k.endswith("_preparation_time")}


def _folder(args: Any, state: Any) -> str:
    return os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
