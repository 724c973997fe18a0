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

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from support.integration_loops import AVERAGES, BATCHES, EVERY, batches, net, plain, sgd
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from polyak import Averager
from polyak.errors import ConfigError
from polyak.integrations.accelerate import register

HALF = BATCHES + 3


def sharding():
    accelerator = Accelerator(cpu=True)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="size_based_wrap",
        min_num_params=1,
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    return accelerator


def assert_equal(found, expected):
    for key, x in expected.items():
        whole = found[key].full_tensor() if isinstance(found[key], DTensor) else found[key]
        assert torch.equal(whole.detach(), x), key


def prepared():
    accelerator = sharding()
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


def saves(folder):
    accelerator, model, optimizer, averager = prepared()
    try:
        register(accelerator, averager, optimizer, save="average", name="ema_0.9")
    except ConfigError as error:
        assert "the model is sharded" in str(error)
    else:
        raise AssertionError("not refused")
    register(accelerator, averager, optimizer)
    train(accelerator, model, optimizer, batches(4)[:HALF])
    accelerator.save_state(folder / "state")
    with CommDebugMode() as seen:
        averager.update()
    assert set(map(str, seen.get_comm_counts())) <= {"c10d.allreduce_"}, seen.get_comm_counts()
    print("saved", flush=True)


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
    print("resumed", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    _, job, place = sys.argv
    {"save": saves, "resume": resumes}[job](Path(place))
