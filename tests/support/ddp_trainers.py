"""Accelerate's and the Trainer's DDP under torchrun: `save` on any world, `resume` on another.

The average is what is saved as the model. As in `accelerate_shards.py` Accelerate's processes see
the same batches, so training is bit for bit that of one process.
"""

import os
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from support.accelerate_shards import HALF, Follows, assert_equal, train, world
from support.integration_loops import AVERAGES, BATCH, BATCHES, EVERY, batches, net, plain, sgd
from support.trainer_runs import trainer
from torch import nn

from polyak import Averager
from polyak.integrations.accelerate import register
from polyak.integrations.transformers import average


def prepared():
    accelerator = Accelerator(cpu=True)
    model = net()
    model, optimizer = accelerator.prepare(model, sgd(model))
    assert isinstance(model, nn.parallel.DistributedDataParallel) == (world() > 1)
    averager = Averager(model, AVERAGES, every=EVERY)
    register(accelerator, averager, optimizer, save="average", name="ema_0.9")
    return accelerator, model, optimizer, averager


def saves(folder):
    accelerator, model, optimizer, averager = prepared()
    train(accelerator, model, optimizer, batches(4)[:HALF])
    own = {key: x.clone() for key, x in averager.model.state_dict().items()}
    accelerator.save_state(folder / "state")
    accelerator.wait_for_everyone()
    saved = load_file(folder / "state" / "model.safetensors")
    saved = {key.removeprefix("module."): x for key, x in saved.items()}
    assert_equal(saved, averager.tensors("ema_0.9"))
    assert_equal(averager.model.state_dict(), own)

    it = trainer(folder / "trainer", [], epochs=1, train_batch=BATCH // world())
    callback = average(it, AVERAGES, every=EVERY, apply="ema_0.9", save="average")
    it.add_callback(follows := Follows())
    it.train()
    assert callback.averager.steps == BATCHES
    for name in callback.averager.names:
        assert_equal(callback.averager.tensors(name), follows.averager.tensors(name))
    it.save_model(folder / "saved")
    accelerator.wait_for_everyone()
    of_first = load_file(folder / "saved" / "model.safetensors")
    trained = dict(callback.averager.model.named_parameters())
    kept = callback.averager.tensors("ema_0.9")
    # Buffers may differ between processes.
    assert_equal(of_first, {key: x for key, x in kept.items() if key in trained})


def resumes(folder):
    accelerator, model, optimizer, averager = prepared()
    train(accelerator, model, optimizer, batches(1))
    accelerator.load_state(folder / "state")
    train(accelerator, model, optimizer, batches(4)[HALF:])
    expected, twin = plain(4)
    for name in twin.names:
        assert_equal(averager.tensors(name), twin.tensors(name))
    assert averager.steps == twin.steps
    assert_equal(averager.model.state_dict(), expected.state_dict())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    _, job, place = sys.argv
    {"save": saves, "resume": resumes}[job](Path(place))
