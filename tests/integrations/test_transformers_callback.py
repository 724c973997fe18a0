"""Averages in the Trainer of transformers are those of a plain loop."""

import gc
import shutil
import warnings
from contextlib import nullcontext

import pytest
import torch
from support.integration_loops import (
    AVERAGES,
    BATCH,
    BATCHES,
    EVERY,
    assert_same_averages,
    assert_same_weights,
    net,
    plain,
    samples,
    sgd,
)

from polyak import Averager, save
from polyak.errors import ConfigError, FileError, StateError
from polyak.integrations.statefile import load_state

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip(
        "transformers", reason="the extra polyak[integrations] is not installed"
    )
    pytest.importorskip("accelerate", reason="the extra polyak[integrations] is not installed")
    from support.trainer_runs import AveragedTrainer, Regression, rows, trainer
    from transformers import Trainer

    from polyak.integrations.transformers import FILE, Averaging, restore

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

WHOLE = 4
"""Epochs of a whole run: 24 steps."""


@pytest.fixture(autouse=True)
def no_collecting(monkeypatch):
    """Each training begins with a garbage collection: seconds, in a process full of modules."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


def averaging(**options):
    return Averaging(AVERAGES, **{"every": EVERY, **options})


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_averages_and_training_are_those_of_a_plain_loop_bit_for_bit(tmp_path, accumulate):
    callback = averaging()
    it = trainer(tmp_path, [callback], gradient_accumulation_steps=accumulate)
    it.train()
    model, twin = plain(WHOLE, accumulate=accumulate)
    assert twin.steps == WHOLE * BATCHES // accumulate
    assert_same_averages(callback.averager, twin, "net.")
    assert_same_weights(it.model.net.state_dict(), model.state_dict())


def test_evaluation_sees_the_average_and_training_its_own_weights(tmp_path):
    callback = averaging(apply="ema_0.9")
    it = trainer(tmp_path, [callback], kind=AveragedTrainer, epochs=2, eval_strategy="epoch")
    it.train()
    for epoch, seen in enumerate(it.model.seen, start=1):
        assert_same_weights(seen, plain(epoch)[1].tensors("ema_0.9"))
    assert len(it.model.seen) == 2
    assert_same_weights(it.model.net.state_dict(), plain(2)[0].state_dict())


def test_an_average_to_evaluate_is_refused_where_none_can_be_evaluated(tmp_path):
    """No callback is called before an evaluation; this fails once one is."""
    it = trainer(tmp_path, [averaging()], epochs=1, eval_strategy="epoch")
    it.train()
    assert_same_weights(it.model.seen[0], plain(1)[0].state_dict())
    for options in ({"apply": "ema_0.9"}, {"apply": "ema_0.9", "save": "average"}):
        it = trainer(tmp_path, [averaging(**options)], epochs=1)
        with pytest.raises(ConfigError, match=r"apply is 'ema_0.9' and .* `averaging = average"):
            it.train()
    assert_same_weights(it.model.net.state_dict(), net().state_dict())


def test_an_evaluation_before_the_first_update_sees_the_models_own_weights(tmp_path):
    it = trainer(
        tmp_path, [averaging(apply="ema_0.9")], kind=AveragedTrainer, epochs=1, eval_on_start=True
    )
    it.train()
    assert_same_weights(it.model.seen[0], net().state_dict())


def test_predictions_after_training_are_those_of_the_average(tmp_path):
    callback = averaging(apply="ema_0.9")
    it = trainer(tmp_path, [callback], kind=AveragedTrainer, epochs=1)
    it.train()
    found = torch.from_numpy(it.predict(rows()).predictions)
    model = plain(1)[1].module("ema_0.9")
    assert torch.allclose(found, model(samples()[0]), rtol=0, atol=1e-6)


def test_an_exception_in_evaluation_gives_own_weights_and_modes_back(tmp_path):
    class Failing(Regression):
        def forward(self, x, labels):
            if not self.training:
                raise ArithmeticError
            return super().forward(x, labels)

    callback = averaging(apply="ema_0.9")
    it = trainer(
        tmp_path, [callback], kind=AveragedTrainer, model=Failing(), epochs=1, eval_strategy="epoch"
    )
    with pytest.raises(ArithmeticError):
        it.train()
    assert_same_weights(it.model.net.state_dict(), plain(1)[0].state_dict())
    callback.averager.state_dict()  # is refused while an average is applied


@pytest.mark.parametrize(
    ("step", "options"), [(6, {}), (9, {"dtype": torch.bfloat16})], ids=["float32", "bfloat16"]
)
def test_training_resumed_in_mid_period_is_training_that_never_stopped(tmp_path, step, options):
    whole = averaging(**options)
    never = trainer(tmp_path / "whole", [whole])
    never.train()

    saves = {"save_strategy": "steps", "save_steps": step}
    trainer(tmp_path / "out", [averaging(**options)], **saves, max_steps=step).train()
    resumed = averaging(**options)
    it = trainer(tmp_path / "out", [resumed], **saves)
    it.train(resume_from_checkpoint=True)
    assert step % EVERY
    assert_same_averages(resumed.averager, whole.averager)
    assert_same_weights(it.model.state_dict(), never.model.state_dict())


@pytest.mark.parametrize("told_by", ["mixin", "resume_from"])
def test_a_checkpoint_may_lie_elsewhere(tmp_path, told_by):
    saves = {"save_strategy": "epoch"}
    trainer(tmp_path / "first", [averaging()], epochs=1, **saves).train()
    moved = shutil.move(tmp_path / "first" / f"checkpoint-{BATCHES}", tmp_path / "moved")
    kind = AveragedTrainer if told_by == "mixin" else Trainer
    callback = averaging(resume_from=None if told_by == "mixin" else moved)
    trainer(tmp_path / "second", [callback], kind=kind).train(resume_from_checkpoint=str(moved))
    assert_same_averages(callback.averager, plain(WHOLE)[1], "net.")


def test_going_on_without_averages_has_to_be_asked_for(tmp_path):
    trainer(tmp_path, [], epochs=1, save_strategy="epoch").train()
    with pytest.raises(StateError, match=rf"{FILE} does not exist; .* resume=False"):
        trainer(tmp_path, [averaging()]).train(resume_from_checkpoint=True)
    callback = averaging(resume=False)
    trainer(tmp_path, [callback]).train(resume_from_checkpoint=True)
    assert callback.averager.steps == (WHOLE - 1) * BATCHES


def test_each_training_begins_an_averager_of_its_own(tmp_path):
    callback = averaging()
    it = trainer(tmp_path, [callback], epochs=1)
    it.train()
    first = callback.averager
    it.train()
    assert callback.averager is not first
    assert callback.averager.steps == first.steps == BATCHES


@pytest.mark.parametrize("kept", [True, False])
def test_averages_follow_the_weights_back_to_the_best_checkpoint(tmp_path, monkeypatch, kept):
    callback = averaging(apply="ema_0.9")
    if not kept:
        monkeypatch.setattr(callback, "on_save", lambda *_, **__: None)
    it = trainer(
        tmp_path,
        [callback],
        kind=AveragedTrainer,
        epochs=3,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # so that it is not the last
    )
    with nullcontext() if kept else pytest.warns(RuntimeWarning, match="holds no averages"):
        it.train()
    best = it.state.best_global_step
    assert 0 < best < 3 * BATCHES
    model, twin = plain(best // BATCHES)
    assert_same_averages(callback.averager, twin if kept else plain(3)[1], "net.")
    assert_same_weights(it.model.net.state_dict(), model.state_dict())


def test_the_averages_of_a_checkpoint_can_be_read_without_a_trainer(tmp_path):
    trainer(tmp_path, [averaging()], epochs=1, save_strategy="epoch").train()
    averager = Averager(Regression(), AVERAGES, every=EVERY)
    restore(averager, tmp_path / f"checkpoint-{BATCHES}")
    assert_same_averages(averager, plain(1)[1], "net.")


def test_a_file_that_holds_no_averagers_state_is_refused(tmp_path):
    save(plain(1)[1], tmp_path / FILE)
    with pytest.raises(FileError, match="no averager's state of format 1; expected one"):
        load_state(tmp_path / FILE)


def test_the_mixin_asks_for_a_callback(tmp_path):
    with pytest.raises(ConfigError, match="no Averaging callback"):
        trainer(tmp_path, [], kind=AveragedTrainer).evaluate()


def test_settings_are_checked_before_training_begins():
    with pytest.raises(ConfigError, match=r"apply is 'ema_0.99'; expected one of"):
        averaging(apply="ema_0.99")


def test_a_pretrained_model_with_tied_weights_is_averaged_and_saved(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.arange(8).expand(BATCH, 8)
    optimizer = sgd(model)
    averager = Averager(model, [0.9])
    averager.attach(optimizer)
    for _ in range(3):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    averager.module("ema_0.9").save_pretrained(tmp_path)
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    with averager.applied("ema_0.9"):
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
