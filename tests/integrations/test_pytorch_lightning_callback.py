"""The same callback for Lightning's other package name."""

import warnings

import pytest
import torch
from support.integration_loops import (
    AVERAGES,
    BATCH,
    EVERY,
    assert_same_averages,
    net,
    plain,
    samples,
    sgd,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")

    from polyak.integrations.pytorch_lightning import Averaging


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def training_step(self, batch, number):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return sgd(self)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")
def test_averages_are_those_of_a_plain_loop_and_go_into_the_checkpoint(tmp_path):
    callback = Averaging(AVERAGES, every=EVERY)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Regression(), DataLoader(TensorDataset(*samples()), batch_size=BATCH))
    twin = plain(2)[1]
    assert_same_averages(callback.averager, twin, "net.")
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)["callbacks"]["polyak.Averaging"]
    assert saved["history"] == twin.state_dict()["history"]
