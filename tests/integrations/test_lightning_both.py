"""Lightning evaluates the model's own weights and an average, under names of their own."""

import warnings

import pytest
import torch
from support.integration_loops import AVERAGES, BATCHES, EVERY, assert_same_weights, plain
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pl = pytest.importorskip(
        "lightning.pytorch", reason="the extra polyak[integrations] is not installed"
    )
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import Logger
    from support.lightning_runs import Regression, loader, trainer
    from torchmetrics import MeanSquaredError

    from polyak.integrations.lightning import Averaging

# Advice of Lightning's that does not concern a tiny run on the CPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty"),
]


class Measured(Regression):
    """A loss that is logged by batch, a metric that gathers, and a mean that the module gathers."""

    def __init__(self):
        super().__init__()
        self.error = MeanSquaredError()
        self.losses = []

    def validation_step(self, batch, number):
        super().validation_step(batch, number)
        found = self.net(batch[0])
        self.error(found, batch[1])
        self.log("error", self.error)
        self.losses.append(nn.functional.mse_loss(found, batch[1]))

    test_step = validation_step

    def on_validation_epoch_end(self):
        self.log("mean", torch.stack(self.losses).mean())
        self.losses.clear()

    on_test_epoch_end = on_validation_epoch_end


KEYS = ("loss", "error", "mean")


class Hears(pl.Callback):
    """What callbacks learn of evaluations."""

    def __init__(self):
        self.starts, self.batches, self.scores = 0, 0, []

    def on_validation_start(self, trainer, pl_module):
        self.starts += 1

    def on_validation_batch_end(self, *_):
        self.batches += 1

    def on_validation_end(self, trainer, pl_module):
        self.scores.append({k: x.item() for k, x in trainer.callback_metrics.items()})


def scores(tmp_path, state):
    """What a Trainer that knows of no averages finds."""
    module = Measured()
    module.net.load_state_dict(state)
    [found] = trainer(tmp_path, pl.Callback()).validate(module, loader(), verbose=False)
    return found


def test_each_is_scored_as_by_an_evaluation_of_its_own(tmp_path):
    module, hears = Measured(), Hears()
    callback = Averaging(AVERAGES, every=EVERY, apply="ema_0.9", both=True)
    it = trainer(tmp_path, callback, epochs=3, callbacks=[hears], num_sanity_val_steps=1)
    it.fit(module, loader(), loader())
    assert (hears.starts, hears.batches) == (1 + 3, 1 + 3 * BATCHES)
    for epoch, row in enumerate(hears.scores[1:], start=1):
        model, twin = plain(epoch)
        own, average = (scores(tmp_path, x) for x in (model.state_dict(), twin.tensors("ema_0.9")))
        assert row == own | {f"{key}/ema_0.9": average[key] for key in KEYS}
        assert all(own[key] != average[key] for key in KEYS)
    assert module.net.training
    assert_same_weights(module.net.state_dict(), plain(3)[0].state_dict())
    [tested] = it.test(module, loader(), verbose=False)
    assert tested == hears.scores[-1]


def test_the_best_average_is_chosen_by_its_own_score_and_saved(tmp_path):
    best = ModelCheckpoint(dirpath=tmp_path, filename="best", monitor="loss/ema_0.9", mode="max")
    callback = Averaging(AVERAGES, every=EVERY, apply="ema_0.9", both=True, save="average")
    trainer(tmp_path, callback, epochs=3, callbacks=[best], enable_checkpointing=True).fit(
        Measured(), loader(), loader()
    )
    loaded = Measured.load_from_checkpoint(best.best_model_path, weights_only=True)
    assert scores(tmp_path, loaded.net.state_dict())["loss"] == best.best_model_score.item()


def test_an_average_that_has_yet_to_begin_is_scored_as_the_weights_it_will_begin_with(tmp_path):
    hears = Hears()
    callback = Averaging(0.9, every=100, both=True)
    trainer(tmp_path, callback, callbacks=[hears]).fit(Measured(), loader(), loader())
    assert all(hears.scores[0][f"{key}/ema_0.9"] == hears.scores[0][key] for key in KEYS)


def test_an_exception_in_the_second_evaluation_leaves_nothing_behind(tmp_path):
    class Failing(Measured):
        def validation_step(self, batch, number):
            raise ArithmeticError

    module, hears = Failing(), Hears()
    callback = Averaging(AVERAGES, every=EVERY, apply="ema_0.9", both=True)
    it = trainer(tmp_path, callback, callbacks=[hears])
    with pytest.raises(ArithmeticError):
        it.fit(module, loader(), loader())
    assert it.callbacks[0] is callback
    assert_same_weights(module.net.state_dict(), plain(1)[0].state_dict())
    callback.averager.state_dict()  # is refused while an average is lent


class Notes(Logger):
    """Keeps what is logged."""

    name, version = "notes", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_hyperparams(self, *_, **__):
        pass

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


def test_decay_age_and_distance_are_logged_as_often_as_lightning_logs(tmp_path):
    notes = Notes()
    callback = Averaging(AVERAGES, every=2, apply="ema_0.9")
    trainer(tmp_path, callback, epochs=2, logger=[notes], log_every_n_steps=3).fit(
        Regression(), loader(), loader()
    )
    rows = {step: row for step, row in notes.rows if "averages/skipped" in row}
    assert list(rows) == [2, 5, 8, 11]  # as Lightning counts, from 0
    _, twin = plain(2, every=2)
    assert rows[11] == {f"averages/{key}": value for key, value in twin.scalars().items()}
    assert rows[11]["averages/ema_0.9/distance"] > 0
    assert any("loss" in row for _, row in notes.rows)
