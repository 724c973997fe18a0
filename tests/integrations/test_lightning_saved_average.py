"""Lightning's checkpoints whose model is the average that was scored, raw weights beside it."""

import warnings

import pytest
import torch
from support.integration_loops import (
    AVERAGES,
    BATCHES,
    EVERY,
    assert_same_averages,
    assert_same_weights,
    net,
    plain,
)

from polyak import Uniform, read_foreign
from polyak.errors import ConfigError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pl = pytest.importorskip(
        "lightning.pytorch", reason="the extra polyak[integrations] is not installed"
    )
    from lightning.pytorch.callbacks import ModelCheckpoint
    from support.lightning_runs import SAFELY, Regression, copied, loader, trainer

    from polyak.integrations.lightning import Averaging

# Advice of Lightning's that does not concern a tiny run on the CPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty"),
]


def averaging(**options):
    return Averaging(AVERAGES, **{"every": EVERY, "apply": "ema_0.9", "save": "average", **options})


def bare(tmp_path):
    """A Trainer that knows nothing of averages."""
    return trainer(tmp_path, pl.Callback())


@pytest.mark.parametrize("weights_only", [False, True])
def test_the_best_checkpoint_loads_as_the_model_that_was_scored(tmp_path, weights_only):
    best = ModelCheckpoint(
        dirpath=tmp_path, monitor="loss", mode="max", save_weights_only=weights_only
    )
    module, callback = Regression(), averaging()
    it = trainer(tmp_path, callback, epochs=3, callbacks=[best], enable_checkpointing=True)
    it.fit(module, loader(), loader())
    loaded = Regression.load_from_checkpoint(best.best_model_path, weights_only=weights_only)
    [scored] = bare(tmp_path).validate(loaded, loader(), verbose=False)
    assert scored["loss"] == best.best_model_score.item()
    raw = plain(3)[0].state_dict()
    assert_same_weights(module.net.state_dict(), raw)
    assert not torch.equal(loaded.net[0].weight, raw["0.weight"])


def test_a_run_resumed_from_it_is_one_that_never_stopped(tmp_path):
    never, whole = Regression(), averaging()
    trainer(tmp_path, whole, epochs=4).fit(never, loader(), loader())
    first = trainer(tmp_path, averaging(), epochs=1)
    first.fit(Regression(), loader(), loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    module, resumed = Regression(), averaging()
    trainer(tmp_path, resumed, epochs=4).fit(
        module, loader(), loader(), ckpt_path=tmp_path / "half.ckpt", **SAFELY
    )
    assert_same_averages(resumed.averager, whole.averager)
    assert_same_weights(module.state_dict(), never.state_dict())


def test_averages_that_begin_anew_begin_with_the_raw_weights(tmp_path):
    first = trainer(tmp_path, averaging(), epochs=1)
    first.fit(Regression(), loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    module, anew = Regression(), averaging(resume=False)
    trainer(tmp_path, anew, epochs=2).fit(
        module, loader(), ckpt_path=tmp_path / "half.ckpt", **SAFELY
    )
    assert anew.averager.steps == BATCHES
    assert_same_weights(module.net.state_dict(), plain(2)[0].state_dict())


def test_it_is_tested_and_read_as_the_average_it_is(tmp_path):
    first = trainer(tmp_path, averaging(), epochs=1)
    first.fit(Regression(), loader())
    first.save_checkpoint(tmp_path / "one.ckpt")
    expected = plain(1)[1].tensors("ema_0.9")
    for callback in (averaging(), averaging(apply=None, save="raw")):
        module = Regression()
        trainer(tmp_path, callback).test(
            module, loader(), ckpt_path=tmp_path / "one.ckpt", verbose=False, **SAFELY
        )
        assert_same_weights(module.seen[0], expected)
    found = read_foreign(tmp_path / "one.ckpt")
    averages = {name for name, what in found.manifest["weights"].items() if what == "averaged"}
    assert any(name.endswith("ema_0.9") for name in averages)


@pytest.mark.parametrize("weights_only", [False, True])
def test_one_written_during_validation_or_after_the_fit_holds_the_average(tmp_path, weights_only):
    class Saves(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "within.ckpt", weights_only=weights_only)

    module = Regression()
    it = trainer(tmp_path, averaging(), callbacks=[Saves()])
    it.fit(module, loader(), loader())
    it.save_checkpoint(tmp_path / "after.ckpt", weights_only=weights_only)
    model, twin = plain(1)
    for name in ("within", "after"):
        saved = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert_same_weights(saved["state_dict"], twin.tensors("ema_0.9"), "net.")
        if not weights_only:
            raw = saved["callbacks"]["polyak.Averaging"]["raw"]
            assert_same_weights(raw, model.state_dict(), "net.")
    assert_same_weights(module.net.state_dict(), model.state_dict())


def test_until_the_average_has_begun_the_raw_weights_are_what_is_saved(tmp_path):
    callback = Averaging([Uniform(start=BATCHES)], save="average")
    it = trainer(tmp_path, callback)
    it.fit(Regression(), loader(), loader())
    it.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert_same_weights(saved["state_dict"], plain(1)[0].state_dict(), "net.")
    assert "raw" not in saved["callbacks"]["polyak.Averaging"]


def test_raw_weights_of_what_is_frozen_are_not_stored_twice(tmp_path):
    class Head(Regression):
        def configure_optimizers(self):
            return torch.optim.SGD([x for x in self.parameters() if x.requires_grad], lr=0.1)

    module = Head()
    module.net[0].requires_grad_(False)
    before = copied(module.net.state_dict())
    it = trainer(tmp_path, averaging())
    it.fit(module, loader(), loader())
    it.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    raw = saved["callbacks"]["polyak.Averaging"]["raw"]
    assert {key for key in saved["state_dict"] if key not in raw} == {
        "net.0.weight",
        "net.0.bias",
    }
    assert torch.equal(saved["state_dict"]["net.0.weight"], before["0.weight"])


def test_a_part_that_is_averaged_is_what_is_replaced(tmp_path):
    class Headed(Regression):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def training_step(self, batch, number):
            return super().training_step(batch, number) * self.scale

    module, callback = Headed(), averaging(part="net")
    it = trainer(tmp_path, callback)
    it.fit(module, loader(), loader())
    it.save_checkpoint(tmp_path / "one.ckpt")
    loaded = Headed.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert torch.equal(loaded.scale, module.scale)
    assert_same_weights(loaded.net.state_dict(), callback.averager.tensors("ema_0.9"))


def test_of_several_averages_the_one_to_save_has_to_be_named():
    with pytest.raises(ConfigError, match=r"apply is None and save is 'average'; expected one of"):
        averaging(apply=None)
    with pytest.raises(ConfigError, match=r"save is 'mean'; expected one of raw, average"):
        averaging(save="mean")
    assert Averaging(0.9, save="average")._keeper.apply == "ema_0.9"


def test_two_averages_cannot_both_be_the_model_of_one_checkpoint(tmp_path):
    callbacks = [averaging(), averaging(key="another")]
    with pytest.raises(ConfigError, match=r"save is 'average' for several callbacks"):
        trainer(tmp_path, callbacks[0], callbacks=callbacks[1:]).fit(Regression(), loader())


def test_a_callback_that_was_taken_off_the_trainer_saves_nothing(tmp_path):
    it = trainer(tmp_path, averaging())
    it.fit(Regression(), loader())
    it.callbacks = []
    module = Regression()
    it.fit_loop.max_epochs = 2
    it.fit(module, loader())
    it.save_checkpoint(tmp_path / "bare.ckpt")
    saved = torch.load(tmp_path / "bare.ckpt", weights_only=True)["state_dict"]
    assert_same_weights(saved, module.net.state_dict(), "net.")
    assert not torch.equal(saved["net.0.weight"], net()[0].weight)
