"""The study of study_epochs.py in Lightning, with its averaging callback."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import WeightAveraging
from study_epochs import EVERY, Setting, Usual, sgd
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, update_bn

from polyak.training.config import PAPER_DECAYS as DECAYS

# One line for every loader that has few workers, and every trainer says what it found.
warnings.filterwarnings("ignore", module="lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(lightning.LightningModule):
    """The network and its steps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, labels = batch
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        right = (logits.argmax(1) == labels).float().mean()
        self.log_dict({"loss": loss, "accuracy": right}, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        images, labels = batch
        logits = self.model(images)
        right = (logits.argmax(1) == labels).float().mean()
        self.log_dict({"val_loss": F.cross_entropy(logits, labels), "val_accuracy": right})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self)


class EveryFew(WeightAveraging):
    """One EMA, updated every 16 steps."""

    def __init__(self, decay: float) -> None:
        # It would average the integer buffers too, which torch refuses.
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._decay = decay

    @property
    def state_key(self) -> str:
        return f"ema {self._decay}"

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % EVERY == 0


class Lightning:
    """A fit of one epoch, then a validation of each model.

    A fit holds five copies of the module and hands its weights back as one of them at its end;
    validating inside it would swap five averages in, one over the other.
    """

    def __init__(self, setting: Setting) -> None:
        self._usual = Usual(setting)
        self._device = setting.device
        self._module = Module(self._usual.model)
        self._averages = [EveryFew(d) for d in DECAYS]
        self._tester = self._trainer()

    def _trainer(self, **options: Any) -> lightning.Trainer:
        quiet = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        accelerator = "cpu" if self._device == "cpu" else "gpu"
        return lightning.Trainer(accelerator=accelerator, devices=1, **quiet, **options)

    def train(self) -> None:
        trainer = self._trainer(max_epochs=1, callbacks=list(self._averages))
        trainer.fit(self._module, self._usual.loader)

    def evaluate(self) -> None:
        for module in (self._module, *self._models()):
            self._tester.validate(module, self._usual.holdout, verbose=False)

    def recompute(self, images: int | None) -> None:
        usual = self._usual
        for module in self._models():
            module.to(usual.device)
            update_bn(usual.loader if images is None else usual.some_loader, module, usual.device)
            self._tester.validate(module, usual.holdout, verbose=False)

    def _models(self) -> list[Module]:
        return [average._average_model.module for average in self._averages]

    def watch(self, timed: Callable[[str, Any], Any]) -> None:
        """Its parts are inside the trainer."""
