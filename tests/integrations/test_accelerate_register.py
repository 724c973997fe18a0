"""Averages with Accelerate count the steps that the prepared optimizer takes."""

import warnings

import pytest
import torch
from support.integration_loops import (
    AVERAGES,
    BATCHES,
    EVERY,
    assert_same_averages,
    assert_same_weights,
    batches,
    net,
    plain,
    sgd,
)
from torch import nn

from polyak import Averager
from polyak.errors import ConfigError, StateError
from polyak.integrations.accelerate import register

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    accelerate = pytest.importorskip(
        "accelerate", reason="the extra polyak[integrations] is not installed"
    )
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from safetensors.torch import load_file


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its state in class attributes."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()


def prepared(save="raw", name=None, **options):
    accelerator = accelerate.Accelerator(cpu=True, **options)
    model = net()
    model, optimizer = accelerator.prepare(model, sgd(model))
    averager = Averager(model, AVERAGES, every=EVERY)
    register(accelerator, averager, optimizer, save=save, name=name)
    return accelerator, model, optimizer, averager


def train(accelerator, model, optimizer, pairs):
    for x, y in pairs:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(x), y))
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_averages_are_those_of_a_plain_loop_bit_for_bit(accumulate):
    accelerator, model, optimizer, averager = prepared(gradient_accumulation_steps=accumulate)
    train(accelerator, model, optimizer, batches(4))
    _, twin = plain(4, accumulate=accumulate)
    assert twin.steps == 4 * BATCHES // accumulate
    assert_same_averages(averager, twin)


def test_steps_that_the_scaler_skips_do_not_count():
    """Accelerate gives a scaler on devices only, and wraps the optimizer around it like this."""
    accelerate.Accelerator(cpu=True)
    model = net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1000)
    optimizer = AcceleratedOptimizer(sgd(model), scaler=scaler)
    averager = Averager(model, AVERAGES)
    register(accelerate.Accelerator(cpu=True), averager, optimizer)
    for number, (x, y) in enumerate(batches()):
        loss = nn.functional.mse_loss(model(x), y) * (torch.inf if number == 2 else 1)
        scaler.scale(loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert averager.steps == BATCHES - 1
    assert_same_averages(averager, plain(1, every=1, bad=[2])[1])


def test_a_state_loaded_in_mid_period_goes_on_as_if_it_had_never_stopped(tmp_path):
    half = BATCHES + 3
    accelerator, model, optimizer, averager = prepared()
    train(accelerator, model, optimizer, batches(4)[:half])
    assert averager.steps % EVERY
    accelerator.save_state(tmp_path)
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    accelerator, model, optimizer, averager = prepared()
    train(accelerator, model, optimizer, batches(1))
    accelerator.load_state(tmp_path)
    train(accelerator, model, optimizer, batches(4)[half:])
    assert_same_averages(averager, plain(4)[1])


SAVED = {"save": "average", "name": "ema_0.9"}


def test_the_saved_model_is_the_average_if_asked_and_training_goes_on_from_its_own(tmp_path):
    half = BATCHES + 3
    accelerator, model, optimizer, averager = prepared(**SAVED)
    accelerator.save_state(tmp_path / "before")
    assert_same_weights(load_file(tmp_path / "before" / "model.safetensors"), model.state_dict())
    train(accelerator, model, optimizer, batches(4)[:half])
    own = {key: x.clone() for key, x in model.state_dict().items()}
    accelerator.save_state(tmp_path / "half")
    assert_same_weights(model.state_dict(), own)
    saved = load_file(tmp_path / "half" / "model.safetensors")
    assert_same_weights(saved, averager.tensors("ema_0.9"))
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    accelerator, model, optimizer, averager = prepared(**SAVED)
    train(accelerator, model, optimizer, batches(1))
    accelerator.load_state(tmp_path / "half")
    assert_same_weights(model.state_dict(), own)
    train(accelerator, model, optimizer, batches(4)[half:])
    expected, twin = plain(4)
    assert_same_averages(averager, twin)
    assert_same_weights(model.state_dict(), expected.state_dict())


def test_of_several_averages_the_one_to_save_has_to_be_named():
    with pytest.raises(ConfigError, match=r"name is None and save is 'average'; expected one of"):
        prepared(save="average")


def test_saving_while_an_average_is_applied_is_refused_before_anything_is_written(tmp_path):
    accelerator, model, optimizer, averager = prepared()
    train(accelerator, model, optimizer, batches(1))
    with averager.applied("ema_0.9"), pytest.raises(StateError, match="holds an average"):
        accelerator.save_state(tmp_path / "within")
    assert not list((tmp_path / "within").iterdir())
    accelerator.save_state(tmp_path / "after")


def test_the_torch_optimizer_within_may_be_given_too():
    accelerator, _, optimizer, averager = prepared()
    with pytest.raises(StateError, match="attached already"):
        register(accelerator, averager, optimizer.optimizer)


def test_a_copy_for_serving_computes_with_the_average_under_mixed_precision():
    """Accelerate replaces the model's forward; a copy must not call that of the original."""
    accelerator, model, optimizer, averager = prepared(mixed_precision="bf16")
    train(accelerator, model, optimizer, batches(2))
    x, _ = batches()[0]
    with averager.applied("ema_0.9"):
        expected = model(x)
    assert torch.equal(averager.module("ema_0.9")(x), expected)
    assert not torch.equal(model.eval()(x), expected)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA"])
def test_processes_with_shards_of_the_weights_are_refused(kind):
    accelerator, model, optimizer, _ = prepared()
    accelerator.state.distributed_type = accelerate.DistributedType(kind)
    with pytest.raises(ConfigError, match=rf"distributed_type is {kind}.*; expected .*FSDP2"):
        register(accelerator, Averager(model, AVERAGES), optimizer)
