"""Averages in Lightning are those of a plain loop, whatever the Trainer does around it."""

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
    sgd,
)
from torch import nn

from polyak import EMA, Uniform
from polyak.errors import ConfigError, StateError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pl = pytest.importorskip(
        "lightning.pytorch", reason="the extra polyak[integrations] is not installed"
    )
    from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint
    from lightning.pytorch.plugins.precision import MixedPrecision
    from support.lightning_runs import SAFELY, Regression, loader, trainer

    from polyak.integrations.lightning import Averaging

# Advice of Lightning's that does not concern a tiny run on the CPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty"),
]

WHOLE = 4
"""Epochs of a whole run: 24 steps."""
HALF = 1
"""Epochs before a stop: 6 steps, in the middle of a period of 4."""


def averaging(**options):
    return Averaging(AVERAGES, **{"every": EVERY, **options})


@pytest.mark.parametrize("apply", [None, "ema_0.9"])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_averages_and_training_are_those_of_a_plain_loop_bit_for_bit(tmp_path, accumulate, apply):
    module, callback = Regression(), averaging(apply=apply)
    trainer(
        tmp_path, callback, epochs=WHOLE, accumulate_grad_batches=accumulate, num_sanity_val_steps=2
    ).fit(module, loader(), loader())
    model, twin = plain(WHOLE, accumulate=accumulate)
    assert twin.steps == WHOLE * BATCHES // accumulate
    assert_same_averages(callback.averager, twin, "net.")
    assert_same_weights(module.net.state_dict(), model.state_dict())


def test_validation_sees_the_average_in_eval_mode_and_training_its_own_weights(tmp_path):
    module, callback = Regression(), averaging(apply="ema_0.9")
    trainer(tmp_path, callback, epochs=2).fit(module, loader(), loader())
    for epoch, seen in enumerate(module.seen, start=1):
        assert_same_weights(seen, plain(epoch)[1].tensors("ema_0.9"))
    assert module.training_flags == [False, False]
    assert module.net.training
    assert_same_weights(module.net.state_dict(), plain(2)[0].state_dict())


def test_without_apply_validation_sees_the_models_own_weights(tmp_path):
    module = Regression()
    trainer(tmp_path, averaging()).fit(module, loader(), loader())
    assert_same_weights(module.seen[0], plain(1)[0].state_dict())


def test_the_sanity_check_sees_the_models_own_weights_without_a_warning(tmp_path):
    module, callback = Regression(), averaging(apply="ema_0.9")
    trainer(tmp_path, callback, num_sanity_val_steps=1).fit(module, loader(), loader())
    assert len(module.seen) == 2
    assert_same_weights(module.seen[0], net().state_dict())


def test_an_average_that_has_yet_to_begin_is_not_validated(tmp_path):
    """Lightning's own callback validates the untouched copy until its start (its issue 21724)."""
    module = Regression()
    callback = Averaging([Uniform(start=BATCHES)], apply=f"uniform_from_{BATCHES}")
    trainer(tmp_path, callback, epochs=2).fit(module, loader(), loader())
    assert_same_weights(module.seen[0], plain(1)[0].state_dict())
    mean = callback.averager.tensors(callback.averager.names[0])
    assert_same_weights(mean, module.seen[1], "net.")


def test_test_and_predict_take_the_average_too(tmp_path):
    module, callback = Regression(), averaging(apply="ema_0.9")
    it = trainer(tmp_path, callback)
    it.fit(module, loader())
    expected = callback.averager.module("ema_0.9").net
    it.test(module, loader(), verbose=False)
    assert_same_weights(module.seen[0], expected.state_dict())
    found = torch.cat(it.predict(module, loader()))
    assert torch.equal(found, torch.cat([expected(x) for x, _ in loader()]))
    assert_same_weights(module.net.state_dict(), plain(1)[0].state_dict())


def test_without_averages_the_models_own_weights_are_tested_with_a_warning(tmp_path):
    module = Regression()
    with pytest.warns(RuntimeWarning, match=r"there are no averages of the model"):
        trainer(tmp_path, averaging(apply="ema_0.9")).test(module, loader(), verbose=False)
    assert_same_weights(module.seen[0], net().state_dict())


@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}], ids=["float32", "bfloat16"])
def test_a_run_resumed_in_mid_period_is_one_that_never_stopped(tmp_path, options, weights_only):
    """`weights_only`: the averages in a checkpoint are plain values, nothing is executed."""
    never, whole = Regression(), averaging(**options)
    trainer(tmp_path, whole, epochs=WHOLE).fit(never, loader())

    first = trainer(tmp_path, averaging(**options), epochs=HALF)
    first.fit(Regression(), loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    module, resumed = Regression(), averaging(**options)
    trainer(tmp_path, resumed, epochs=WHOLE).fit(
        module, loader(), ckpt_path=tmp_path / "half.ckpt", **(SAFELY if weights_only else {})
    )
    assert whole.averager.steps % EVERY == 0 != HALF * BATCHES % EVERY
    assert_same_averages(resumed.averager, whole.averager)
    assert_same_weights(module.state_dict(), never.state_dict())


def test_a_second_fit_goes_on_with_the_same_averages(tmp_path):
    module, callback = Regression(), averaging()
    it = trainer(tmp_path, callback)
    it.fit(module, loader())
    first = callback.averager
    it.fit_loop.max_epochs = 2
    it.fit(module, loader())
    assert callback.averager is first
    assert first.steps == 2 * BATCHES


def test_another_model_has_averages_of_its_own(tmp_path):
    callback = averaging()
    trainer(tmp_path, callback).fit(Regression(), loader())
    other = Regression()
    trainer(tmp_path, callback).fit(other, loader())
    assert callback.averager.model is other
    assert callback.averager.steps == BATCHES


def test_a_checkpoint_can_be_tested_in_a_new_process(tmp_path):
    first = trainer(tmp_path, averaging())
    first.fit(Regression(), loader())
    first.save_checkpoint(tmp_path / "one.ckpt")
    module = Regression()
    trainer(tmp_path, averaging(apply="ema_0.5")).test(
        module, loader(), ckpt_path=tmp_path / "one.ckpt", verbose=False, **SAFELY
    )
    assert_same_weights(module.seen[0], plain(1)[1].tensors("ema_0.5"))


@pytest.mark.parametrize("options", [{}, {"resume": False}], ids=["refused", "anew"])
def test_going_on_without_averages_has_to_be_asked_for(tmp_path, options):
    first = trainer(tmp_path, pl.Callback())
    first.fit(Regression(), loader())
    first.save_checkpoint(tmp_path / "bare.ckpt")
    callback = averaging(**options)
    it = trainer(tmp_path, callback, epochs=2)
    if not options:
        with pytest.raises(StateError, match=r"no averages; .* resume=False"):
            it.fit(Regression(), loader(), ckpt_path=tmp_path / "bare.ckpt", **SAFELY)
        return
    it.fit(Regression(), loader(), ckpt_path=tmp_path / "bare.ckpt", **SAFELY)
    assert callback.averager.steps == BATCHES


class SavesInValidation(pl.Callback):
    """A callback that writes a checkpoint while the average is lent."""

    def __init__(self, path):
        self.path = path

    def on_validation_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


def test_a_checkpoint_written_during_validation_holds_own_weights_and_averages(tmp_path):
    path = tmp_path / "within.ckpt"
    module, callback = Regression(), averaging(apply="ema_0.9")
    trainer(tmp_path, callback, callbacks=[SavesInValidation(path)]).fit(module, loader(), loader())
    model, twin = plain(1)
    saved = torch.load(path, weights_only=True)
    assert_same_weights(saved["state_dict"], model.state_dict(), "net.")
    state = saved["callbacks"]["polyak.Averaging"]
    assert state["history"] == twin.state_dict()["history"]
    for name in twin.names:
        own = twin.state_dict()["tensors"][name]
        assert_same_weights(state["tensors"][name], own, "net.")
    assert_same_weights(module.seen[0], twin.tensors("ema_0.9"))


def test_lightnings_checkpoint_after_validation_holds_own_weights(tmp_path):
    files = ModelCheckpoint(dirpath=tmp_path, filename="best", monitor="loss")
    module, callback = Regression(), averaging(apply="ema_0.9")
    trainer(tmp_path, callback, callbacks=[files], enable_checkpointing=True).fit(
        module, loader(), loader()
    )
    saved = torch.load(tmp_path / "best.ckpt", weights_only=False)
    assert_same_weights(saved["state_dict"], plain(1)[0].state_dict(), "net.")


class Failing(Regression):
    error: type[BaseException]

    def validation_step(self, batch, number):
        raise self.error


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_an_exception_in_validation_gives_own_weights_and_modes_back(tmp_path, error):
    module, callback = Failing(), averaging(apply="ema_0.9")
    module.error = error
    # Lightning makes an interrupt an exit.
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        trainer(tmp_path, callback).fit(module, loader(), loader())
    assert_same_weights(module.net.state_dict(), plain(1)[0].state_dict())
    callback.averager.state_dict()  # is refused while an average is lent
    before = callback.averager.steps
    sgd(module).step()
    assert callback.averager.steps == before


class Overflowing(Regression):
    """Its loss is infinite for the third batch of each epoch."""

    def training_step(self, batch, number):
        loss = super().training_step(batch, number)
        return loss * torch.inf if number == 2 else loss


def test_steps_that_grad_scaler_skips_do_not_count(tmp_path):
    class Float32(MixedPrecision):
        """The scaler alone, so that numbers are those of the plain loop."""

        def autocast_context_manager(self):
            return torch.autocast("cpu", enabled=False)

    # A power of two, and growth that never comes: scaling does not round.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1000)
    module, callback = Overflowing(), averaging(every=1)
    it = trainer(tmp_path, callback, plugins=[Float32("16-mixed", "cpu", scaler)])
    it.fit(module, loader())
    model, twin = plain(1, every=1, bad=[2])
    assert callback.averager.steps == BATCHES - 1
    assert_same_weights(module.net.state_dict(), model.state_dict())
    assert_same_averages(callback.averager, twin, "net.")


class Adversarial(pl.LightningModule):
    """Two optimizers, the second of which steps on every third batch only."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.critic, self.generator = net(), net()

    def training_step(self, batch, number):
        turns = [0, 1] if number % 3 == 2 else [0]
        for model, index in zip((self.critic, self.generator), turns, strict=False):
            optimizer = self.optimizers()[index]
            optimizer.zero_grad()
            self.manual_backward(nn.functional.mse_loss(model(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [sgd(self.critic), sgd(self.generator)], []


@pytest.mark.parametrize(("part", "steps"), [(None, 4), ("critic", 12), ("generator", 4)], ids=str)
def test_of_several_optimizers_those_of_the_part_count_once_all_have_stepped(tmp_path, part, steps):
    """C15: `trainer.global_step` counts each of them."""
    module, callback = Adversarial(), averaging(part=part, every=1)
    it = trainer(tmp_path, callback, epochs=2)
    it.fit(module, loader())
    assert it.global_step == 12 + 4
    assert callback.averager.steps == steps
    assert callback.averager.model is (module if part is None else module.get_submodule(part))


def test_two_callbacks_keep_two_periods(tmp_path):
    callbacks = [averaging(), averaging(every=1, key="each step")]
    it = trainer(tmp_path, callbacks[0], callbacks=callbacks[1:])
    it.fit(Regression(), loader())
    it.save_checkpoint(tmp_path / "two.ckpt")
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)["callbacks"]
    assert saved["each step"]["history"]["updates"] == BATCHES
    assert_same_averages(callbacks[1].averager, plain(1, every=1)[1], "net.")


class WithoutOptimizer(Regression):
    def configure_optimizers(self):
        return None


@pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None.")
def test_a_model_that_no_optimizer_trains_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train none of the averaged parameters"):
        trainer(tmp_path, averaging()).fit(WithoutOptimizer(), loader())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("FSDPStrategy", ", FSDP1, whose flat"),
        ("DeepSpeedStrategy", ", whose ZeRO"),
        ("OtherStrategy", ""),
    ],
)
def test_strategies_that_spread_weights_in_their_own_way_are_refused(tmp_path, name, why):
    callback = averaging()
    it = trainer(tmp_path, callback)

    class Sharded:
        restore_checkpoint_after_setup = True

    it.strategy.__class__ = type(name, (type(it.strategy),), dict(vars(Sharded)))
    with pytest.raises(ConfigError, match=rf"strategy is {name}{why}.*; expected .*FSDP2"):
        callback.on_fit_start(it, Regression())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"apply": "ema_0.99"}, r"apply is 'ema_0.99'; expected one of ema_0.5, ema_0.9"),
        ({"every": 0}, r"every is 0"),
        ({"nonfinite": "ignore"}, r"nonfinite is 'ignore'"),
    ],
)
def test_settings_are_checked_before_training_begins(options, message):
    with pytest.raises(ConfigError, match=message):
        averaging(**options)


def test_kinds_and_options_reach_the_averager(tmp_path):
    callback = Averaging([EMA(0.9, name="slow")], dtype=torch.float64, buffers="copy")
    trainer(tmp_path, callback).fit(Regression(), loader())
    assert callback.averager.names == ("slow",)
    assert callback.averager.buffers == "copy"
    assert callback.averager.tensors("slow")["net.0.weight"].dtype is torch.float64


class WritesAverages(pl.Callback):
    """Leaves each process's averages in a file."""

    def __init__(self, averaging, folder):
        self.averaging, self.folder = averaging, folder

    def on_fit_end(self, trainer, pl_module):
        averager = self.averaging.averager
        found = {"steps": averager.steps, **averager.tensors("ema_0.9")}
        torch.save(found, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:It is recommended to use .*sync_dist")
def test_two_processes_keep_the_same_averages_of_parameters(tmp_path):
    callback = averaging(apply="ema_0.9", every=2)
    files = ModelCheckpoint(dirpath=tmp_path, filename="last")
    trainer(
        tmp_path,
        callback,
        epochs=2,
        callbacks=[WritesAverages(callback, tmp_path), files],
        enable_checkpointing=True,
        strategy="ddp_fork",
        devices=2,
    ).fit(Regression(), loader(), loader())
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["steps"] == second["steps"] == BATCHES
    for key in dict(Regression().named_parameters()):
        assert torch.equal(first[key], second[key])
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["polyak.Averaging"]
    assert torch.equal(state["tensors"]["ema_0.9"]["net.0.weight"], first["net.0.weight"])


class Unfreezing(BaseFinetuning):
    """The first layer trains from the second epoch on, with a group of its own."""

    def freeze_before_training(self, module):
        self.freeze(module.net[0])

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.net[0], optimizer, lr=0.05)


class WrittenOut(pl.Callback):
    """m ← m + 0.1·(x − m) for every parameter after each batch."""

    def on_fit_start(self, trainer, module):
        self.mean = {name: x.detach().clone() for name, x in module.named_parameters()}

    def on_train_batch_end(self, trainer, module, *_):
        for name, x in module.named_parameters():
            self.mean[name].lerp_(x.detach(), 0.1)


def test_a_backbone_that_is_unfrozen_later_is_averaged_from_then_on(tmp_path):
    class Head(Regression):
        def configure_optimizers(self):
            trains = [x for x in self.parameters() if x.requires_grad]
            return torch.optim.SGD(trains, lr=0.1)

    module, written_out = Head(), WrittenOut()
    callback = Averaging([EMA(0.9, warmup=None, name="ema")], apply="ema")
    trainer(tmp_path, callback, epochs=3, callbacks=[Unfreezing(), written_out]).fit(
        module, loader(), loader()
    )
    tensors = callback.averager.tensors("ema")
    moved = module.net[0].weight.detach() - net()[0].weight
    assert bool(moved.any())
    for name, mean in written_out.mean.items():
        torch.testing.assert_close(tensors[name], mean)
