"""Averages in the Trainer of transformers: one call, or a callback and a mixin."""

from collections.abc import Sequence
from typing import Any

from polyak.averaging import Average
from polyak.errors import ConfigError
from polyak.integrations.trainer_hooks import (
    FILE,
    FOLDER,
    AveragedEvaluation,
    AveragingHooks,
    restore,
)

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "polyak.integrations.transformers needs the package 'transformers', which is not "
        "installed; expected the extra of polyak that brings it. "
        'Run `pip install "polyak[integrations]"`.'
    ) from error

__all__ = ["FILE", "FOLDER", "AveragedEvaluation", "Averaging", "average", "restore"]


class Averaging(AveragingHooks, TrainerCallback):
    """Keeps averages of the weights that a `transformers.Trainer` trains.

    Steps that gradient accumulation passes over or GradScaler skips do not count. Each
    `checkpoint-<step>` folder gets the file `averager.safetensors` beside the model's weights (the
    folder `averager` where processes have shards), and `train(resume_from_checkpoint=…)` goes on
    from it exactly, mid-period too. After `load_best_model_at_end` the averages are those of the
    best checkpoint, as the weights are. Each `train` begins an averager of its own.

    No callback is called before an evaluation or a save. So it is `AveragedEvaluation` that
    evaluates and saves an average; `average(trainer, …)` brings both.

    Args:
        averages: Decays or kinds, as of `polyak.Averager`.
        every: Optimizer steps per update, ≥ 1.
        apply: Name of the average to evaluate, such as "ema_0.998"; None evaluates the model's
            own weights.
        save: "average" saves the one that `apply` names (the only one, if there is one) wherever
            the Trainer saves the model: in checkpoints, `save_model`, as the best model, on the
            hub. The weights that are trained lie beside it in `averager.safetensors`.
        both: Whether evaluations evaluate the model's own weights too, which takes as long again:
            "eval_loss" is then theirs, "eval_loss/ema_0.998" the average's.
        resume: Whether training from a checkpoint takes its averages over; False begins anew.
        resume_from: The checkpoint's folder; None means `checkpoint-<step>` in `output_dir`,
            which is right for `resume_from_checkpoint=True`. `AveragedEvaluation` sets it.
        options: `buffers`, `dtype`, `device` and `nonfinite` of `polyak.Averager`.

    Raises:
        ConfigError: for settings outside their range; when training begins, for FSDP1, DeepSpeed
            and an `apply` that the Trainer cannot carry out.
        StateError: when training goes on from a checkpoint that holds no averages.

    Example:
        >>> averaging = Averaging([0.99, 0.998], every=16, apply="ema_0.998")
        >>> averaging.averager is None  # until training begins
        True
    """


def average(
    trainer: Any, averages: float | Average | Sequence[float | Average], **options: Any
) -> Averaging:
    """Let a Trainer keep averages of what it trains, evaluate one and, if asked, save it.

    The Trainer may be of any subclass; it gets the callback `Averaging`, and `AveragedEvaluation`
    among its bases. Of one average alone, that one is evaluated.

    Args:
        trainer: A `transformers.Trainer` that has not begun to train.
        averages: And what follows, as of `Averaging`.
        options: As of `Averaging`.

    Returns:
        The callback, whose `averager` is the bank.

    Raises:
        ConfigError: for settings outside their range, and a Trainer that has averages already.

    Example::

        averaging = average(trainer, 0.999, save="average")
        trainer.train()
    """
    if any(isinstance(x, AveragingHooks) for x in trainer.callback_handler.callbacks):
        raise ConfigError(
            "the Trainer has an Averaging callback already; expected none, since a checkpoint "
            "keeps one bank. Name all averages in one call."
        )
    averaging = Averaging(averages, **options)
    averaging.keeper.evaluate_only_one()
    if not isinstance(trainer, AveragedEvaluation):
        cls = type(trainer)
        trainer.__class__ = type(
            cls.__name__, (AveragedEvaluation, cls), {"__module__": cls.__module__}
        )
    trainer.add_callback(averaging)
    return averaging
