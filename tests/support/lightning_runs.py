"""The model of the plain loop as a LightningModule, and a Trainer for it."""

from inspect import signature

import lightning.pytorch as pl
from support.integration_loops import BATCH, net, samples, sgd
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def loader():
    return DataLoader(TensorDataset(*samples()), batch_size=BATCH)


class Regression(pl.LightningModule):
    """The model of the plain loop; notes what it was validated with."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.seen = []
        self.training_flags = []

    def training_step(self, batch, number):
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def validation_step(self, batch, number):
        if number == 0:
            self.seen.append(copied(self.net.state_dict()))
            self.training_flags.append(self.net.training)
        self.log("loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def predict_step(self, batch, number):
        return self.net(batch[0])

    def configure_optimizers(self):
        return sgd(self)


SAFELY = {"weights_only": True} if "weights_only" in signature(pl.Trainer.fit).parameters else {}
"""How a checkpoint is read where Lightning can read it without executing anything."""


def copied(state):
    return {key: x.clone() for key, x in state.items()}


def trainer(tmp_path, callback, *, epochs=1, callbacks=(), **options):
    defaults = {"num_sanity_val_steps": 0, "enable_checkpointing": False, "logger": False}
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[callback, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **{**defaults, **options},
    )
