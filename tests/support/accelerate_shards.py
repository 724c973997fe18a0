"""Accelerate's and the Trainer's FSDP2 under torchrun: `save` on any world, `resume` on another.

    torchrun --nproc-per-node=2 accelerate_shards.py save FOLDER
    torchrun --nproc-per-node=1 accelerate_shards.py resume FOLDER

Every process sees the same batches, so training is bit for bit that of one process. Accelerate
shards on devices only; here its state is told that the CPUs are such.
"""

import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from support.integration_loops import AVERAGES, BATCH, BATCHES, EVERY, batches, net, plain, sgd
from support.trainer_runs import Regression, trainer
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from transformers import TrainerCallback

from polyak import Averager
from polyak.errors import ConfigError
from polyak.integrations.accelerate import register
from polyak.integrations.transformers import average

HALF = BATCHES + 3


def shard(accelerator):
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="size_based_wrap",
        min_num_params=1,
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
    # Whatever else builds a state takes it from there.
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def assert_equal(found, expected):
    for key, x in expected.items():
        whole = found[key].full_tensor() if isinstance(found[key], DTensor) else found[key]
        assert torch.equal(whole.detach(), x), key


class Follows(TrainerCallback):
    """An averager of a whole model that is given the trained weights after each step."""

    def __init__(self):
        self.model = Regression()
        self.averager = Averager(self.model, AVERAGES, every=EVERY)

    def on_step_end(self, args, state, control, *, model, **_):
        self.model.load_state_dict(whole(model.state_dict()))
        self.averager.step()


def whole(state):
    return {
        key: (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone()
        for key, x in state.items()
    }


def prepared():
    accelerator = Accelerator(cpu=True)
    shard(accelerator)
    model = net()
    model, optimizer = accelerator.prepare(model, sgd(model))
    assert isinstance(model[0].weight, DTensor)
    averager = Averager(model, AVERAGES, every=EVERY)
    return accelerator, model, optimizer, averager


def train(accelerator, model, optimizer, pairs):
    for x, y in pairs:
        accelerator.backward(nn.functional.mse_loss(model(x), y))
        optimizer.step()
        optimizer.zero_grad()


def by_trainer(folder, **options):
    it = trainer(
        folder,
        [],
        train_batch=BATCH // world(),
        save_strategy="epoch",
        **options,
    )
    shard(it.accelerator)
    it.is_fsdp_enabled = True
    callback = average(it, AVERAGES, every=EVERY, apply="ema_0.9")
    return it, callback


def world():
    return int(os.environ["WORLD_SIZE"])


def saves(folder):
    accelerator, model, optimizer, averager = prepared()
    with pytest.raises(ConfigError, match="the model is sharded"):
        register(accelerator, averager, optimizer, save="average", name="ema_0.9")
    register(accelerator, averager, optimizer)
    train(accelerator, model, optimizer, batches(4)[:HALF])
    accelerator.save_state(folder / "state")
    with CommDebugMode() as seen:
        averager.update()
    assert set(map(str, seen.get_comm_counts())) <= {"c10d.allreduce_"}
    it, callback = by_trainer(folder / "trainer", epochs=1)
    it.add_callback(follows := Follows())
    it.train()
    assert isinstance(callback.averager.tensors("ema_0.9")["net.0.weight"], DTensor)
    assert callback.averager.steps == BATCHES
    found = {name: whole(callback.averager.tensors(name)) for name in callback.averager.names}
    for name, state in found.items():
        assert_equal(state, follows.averager.tensors(name))
    if it.is_world_process_zero():
        torch.save(found, folder / "averages.pt")


def resumes(folder):
    accelerator, model, optimizer, averager = prepared()
    register(accelerator, averager, optimizer)
    train(accelerator, model, optimizer, batches(1))
    accelerator.load_state(folder / "state")
    train(accelerator, model, optimizer, batches(4)[HALF:])
    expected, twin = plain(4)
    for name in twin.names:
        assert_equal(averager.tensors(name), twin.tensors(name))
    assert averager.steps == twin.steps
    assert_equal(model.state_dict(), expected.state_dict())
    # At the end of what was trained: nothing but the averages and the weights is taken over.
    it, callback = by_trainer(folder / "trainer", epochs=1)
    it.train(resume_from_checkpoint=True)
    assert callback.averager.steps == BATCHES
    # Each process had statistics of its own data; DCP takes those of one of them.
    trained = dict(Regression().named_parameters())
    for name, state in torch.load(folder / "averages.pt").items():
        kept = {key: x for key, x in state.items() if key in trained}
        assert_equal(callback.averager.tensors(name), kept)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    _, job, place = sys.argv
    {"save": saves, "resume": resumes}[job](Path(place))
