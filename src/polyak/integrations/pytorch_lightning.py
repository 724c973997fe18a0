"""Averages in Lightning: a callback for the Trainer of the package `pytorch_lightning`."""

from polyak.integrations.lightning_hooks import AveragingHooks

try:
    from pytorch_lightning.callbacks import Callback
except ImportError as error:
    raise ImportError(
        "polyak.integrations.pytorch_lightning needs the package 'pytorch_lightning', which is not "
        "installed; expected it. Run `pip install pytorch-lightning`, or import "
        "polyak.integrations.lightning for the package 'lightning'."
    ) from error

__all__ = ["Averaging"]


class Averaging(AveragingHooks, Callback):
    """`polyak.integrations.lightning.Averaging` for the package `pytorch_lightning`."""
