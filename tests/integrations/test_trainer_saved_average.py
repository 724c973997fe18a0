"""What the Trainer of transformers saves is the average that was scored."""

import gc
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

from polyak.errors import ConfigError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("transformers", reason="the extra polyak[integrations] is not installed")
    pytest.importorskip("accelerate", reason="the extra polyak[integrations] is not installed")
    from safetensors.torch import load_file
    from support.trainer_runs import AveragedTrainer, Regression, trainer
    from transformers import Trainer

    from polyak.integrations.statefile import load_state
    from polyak.integrations.transformers import FILE, Averaging, average

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def no_collecting(monkeypatch):
    """Each training begins with a garbage collection: seconds, in a process full of modules."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


def averaged(folder, *, averages=AVERAGES, model=None, epochs=4, **options):
    """A Trainer that saves an average, and its callback."""
    mine = {"every": EVERY, "apply": "ema_0.9", "save": "average"}
    mine |= {key: options.pop(key) for key in ("apply", "both", "resume") if key in options}
    it = trainer(folder, [], epochs=epochs, model=model, **options)
    return it, average(it, averages, **mine)


BEST = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": True,  # so that it is not the last
}


def scored(folder, state):
    """The loss of a model without averages, by a Trainer without any."""
    model = Regression()
    model.load_state_dict(state)
    return trainer(folder, [], model=model).evaluate()["eval_loss"]


def test_the_best_model_is_the_average_that_was_scored_and_so_is_what_is_saved(tmp_path):
    it, callback = averaged(tmp_path / "out", epochs=3, **BEST)
    it.train()
    best = it.state.best_global_step
    assert 0 < best < 3 * BATCHES
    expected = plain(best // BATCHES)[1].tensors("ema_0.9")
    assert_same_weights(it.model.net.state_dict(), expected)
    it.save_model(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert_same_weights(saved, expected, "net.")
    assert scored(tmp_path, saved) == it.state.best_metric
    assert it.evaluate()["eval_loss"] == it.state.best_metric
    kept = load_file(tmp_path / "out" / f"checkpoint-{best}" / "model.safetensors")
    assert_same_weights(kept, expected, "net.")
    assert_same_averages(callback.averager, plain(best // BATCHES)[1], "net.")


def test_without_a_best_model_the_model_has_its_own_weights_and_the_average_is_saved(tmp_path):
    it, callback = averaged(tmp_path, epochs=2)
    it.train()
    model, twin = plain(2)
    assert_same_weights(it.model.net.state_dict(), model.state_dict())
    it.save_model(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert_same_weights(saved, twin.tensors("ema_0.9"), "net.")
    assert scored(tmp_path, saved) == it.evaluate()["eval_loss"]
    assert_same_weights(it.model.net.state_dict(), model.state_dict())
    assert_same_averages(callback.averager, twin, "net.")


def test_what_is_pushed_is_the_average(tmp_path, monkeypatch):
    it, _ = averaged(tmp_path, epochs=1)
    it.train()
    it.hub_model_id = "somebody/something"
    pushed = []
    monkeypatch.setattr(it, "is_world_process_zero", lambda: False)  # stops before the network
    monkeypatch.setattr(it, "_save", lambda *_, **__: pushed.append(it.model.net.state_dict()))
    it.push_to_hub()
    assert_same_weights(pushed[0], plain(1)[1].tensors("ema_0.9"))


@pytest.mark.parametrize("step", [6, 9])
def test_training_resumed_from_it_is_training_that_never_stopped(tmp_path, step):
    never, whole = averaged(tmp_path / "whole")
    never.train()
    saves = {"save_strategy": "steps", "save_steps": step}
    first, _ = averaged(tmp_path / "out", **saves, max_steps=step)
    first.train()
    raw = load_state(tmp_path / "out" / f"checkpoint-{step}" / FILE)["raw"]
    assert_same_weights(raw, first.model.net.state_dict(), "net.")
    it, resumed = averaged(tmp_path / "out", **saves)
    it.train(resume_from_checkpoint=True)
    assert_same_averages(resumed.averager, whole.averager)
    assert_same_weights(it.model.state_dict(), never.model.state_dict())


def test_averages_that_begin_anew_begin_with_the_raw_weights(tmp_path):
    averaged(tmp_path, epochs=1, save_strategy="epoch")[0].train()
    it, callback = averaged(tmp_path, epochs=2, resume=False)
    it.train(resume_from_checkpoint=True)
    assert callback.averager.steps == BATCHES
    assert_same_weights(it.model.net.state_dict(), plain(2)[0].state_dict())


def test_both_are_scored_under_names_of_their_own(tmp_path):
    it, _ = averaged(
        tmp_path,
        epochs=3,
        both=True,
        **{**BEST, "metric_for_best_model": "eval_loss/ema_0.9"},
    )
    it.train()
    rows = [row for row in it.state.log_history if "eval_loss" in row]
    for epoch, row in enumerate(rows, start=1):
        model, twin = plain(epoch)
        for key, state in (
            ("eval_loss", model.state_dict()),
            ("eval_loss/ema_0.9", twin.tensors("ema_0.9")),
        ):
            named = {f"net.{name}": x for name, x in state.items()}
            assert row[key] == scored(tmp_path / "alone", named), key
        assert row["eval_loss"] != row["eval_loss/ema_0.9"]
    assert len(rows) == 3
    best = max(row["eval_loss/ema_0.9"] for row in rows)
    assert it.state.best_metric == best
    assert it.evaluate()["eval_loss/ema_0.9"] == best


def test_one_call_brings_callback_and_evaluation_to_a_trainer_of_any_class(tmp_path):
    class Own(Trainer):
        pass

    it = trainer(tmp_path, [], kind=Own, epochs=1, eval_strategy="epoch")
    callback = average(it, 0.9, every=EVERY)
    assert isinstance(it, Own)
    assert type(it).__name__ == "Own"
    it.train()
    assert_same_weights(it.model.seen[0], plain(1)[1].tensors("ema_0.9"))
    assert callback.averager.names == ("ema_0.9",)
    again = trainer(tmp_path, [], kind=AveragedTrainer, epochs=1)
    average(again, AVERAGES)
    assert type(again) is AveragedTrainer
    with pytest.raises(ConfigError, match="has an Averaging callback already"):
        average(again, 0.5)


def test_of_several_averages_the_one_to_save_has_to_be_named():
    for options, asked in (({"save": "average"}, "save is 'average'"), ({"both": True}, "both")):
        with pytest.raises(ConfigError, match=rf"apply is None and {asked}.*; expected one of"):
            Averaging(AVERAGES, **options)


def test_until_the_average_has_begun_the_models_own_weights_are_saved(tmp_path):
    it, callback = averaged(tmp_path)
    it.save_model(tmp_path / "before")
    saved = load_file(tmp_path / "before" / "model.safetensors")
    assert_same_weights(saved, net().state_dict(), "net.")
    assert callback.averager is None


def test_an_exception_while_saving_gives_own_weights_back(tmp_path, monkeypatch):
    it, callback = averaged(tmp_path, epochs=1)
    it.train()

    def failing(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(it, "_save", failing)
    with pytest.raises(OSError, match="no space"):
        it.save_model(tmp_path / "saved")
    assert_same_weights(it.model.net.state_dict(), plain(1)[0].state_dict())
    callback.averager.state_dict()  # is refused while an average is applied
    assert torch.is_grad_enabled()


def test_decay_age_and_distance_are_logged_beside_the_training_loss(tmp_path):
    it, _ = averaged(tmp_path, epochs=2, logging_strategy="steps", logging_steps=4)
    it.train()
    rows = {row["step"]: row for row in it.state.log_history if "loss" in row}
    assert list(rows) == [4, 8, 12]
    said = {f"averages/{key}": value for key, value in plain(2)[1].scalars().items()}
    assert said.items() <= rows[12].items()
    assert "averages/ema_0.9/decay" in said
