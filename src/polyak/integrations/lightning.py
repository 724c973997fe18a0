"""Averages in Lightning: a callback for the Trainer of the package `lightning`."""

from polyak.integrations.lightning_hooks import AveragingHooks

try:
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise ImportError(
        "polyak.integrations.lightning needs the package 'lightning', which is not installed; "
        'expected the extra of polyak that brings it. Run `pip install "polyak[integrations]"`, '
        "or import polyak.integrations.pytorch_lightning for the package 'pytorch_lightning'."
    ) from error

__all__ = ["Averaging"]


class Averaging(AveragingHooks, Callback):
    """Keeps averages of a LightningModule's weights, and validates with one of them.

    What counts is a step of the optimizer that took place: not a batch, so gradient
    accumulation is right; not `trainer.global_step`, which counts every optimizer's; not a step
    that GradScaler skipped. Of several optimizers a step counts when the last has stepped, of
    those that train an averaged parameter.

    With `apply` the model holds that average, in eval mode, from `on_validation_start` to
    `on_validation_end`, and likewise in test and predict; afterwards, also after an exception,
    its own weights and modes are back. Until the average has taken in some weights, as in the
    sanity check, the model's own are evaluated.

    Checkpoints hold the model's own weights under "state_dict", also when they are written
    during validation, and beside them the averages, from which `Trainer.fit(ckpt_path=…)` goes on
    exactly, mid-period too. `Trainer.test(ckpt_path=…)` tests the average of that checkpoint.
    Those with weights only hold no averages, and no callback can see them written: during
    validation they hold what the model then holds.

    With `save="average"` every checkpoint, also with weights only, holds the average as its
    "state_dict", so that `load_from_checkpoint(best)` gives what was scored; the weights that are
    trained lie beside the averages, and a fit goes on with them.

    Under `ModelParallelStrategy` averages stay shards, and may go on on another number of
    processes. Loggers get `Averager.scalars()` under "averages/" as often as Lightning logs.

    Args:
        averages: Decays or kinds, or one of them, as of `polyak.Averager`.
        every: Optimizer steps per update, ≥ 1.
        apply: Name of the average to evaluate, such as "ema_0.998"; None evaluates the model's
            own weights, or the only average if `save` or `both` asks for one.
        save: "average" saves the one that `apply` names as the model, once it has begun.
        both: Whether validation and test evaluate the model's own weights too, which takes as long
            again: "val_loss" is then theirs, "val_loss/ema_0.998" the average's.
        part: Name of the submodule to average, such as "generator"; None means all.
        resume: Whether a fit from a checkpoint takes its averages over; False begins them anew.
        key: Where checkpoints keep the averages; two callbacks of one Trainer need two.
        options: `buffers`, `dtype`, `device` and `nonfinite` of `polyak.Averager`.

    Raises:
        ConfigError: for settings outside their range; when fitting begins, for FSDP1 and
            DeepSpeed, or if no optimizer trains what is averaged.
        StateError: when fitting begins from a checkpoint that holds no averages.

    Example:
        >>> averaging = Averaging([0.99, 0.998], every=16, apply="ema_0.998")
        >>> averaging.averager is None  # until fit begins
        True
    """
