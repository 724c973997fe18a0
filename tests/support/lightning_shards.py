"""Lightning's ModelParallelStrategy under torchrun: `save` on any world, `resume` on any other.

    torchrun --nproc-per-node=2 lightning_shards.py save FOLDER
    torchrun --nproc-per-node=1 lightning_shards.py resume FOLDER

Every process sees the same batches, so training is bit for bit that of one process.
"""

import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from support.integration_loops import AVERAGES, EVERY, plain
from support.lightning_runs import SAFELY, Regression, loader, trainer
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from polyak.integrations.lightning import Averaging

FORMS = {"folder": True, "file": False}
"""Names of checkpoints, and whether each process writes its shards."""


class Sharded(Regression):
    def configure_model(self):
        if not isinstance(self.net, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            fully_shard(self.net[0], mesh=mesh)
            fully_shard(self.net, mesh=mesh)


def whole(state):
    return {
        key: (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone()
        for key, x in state.items()
    }


def assert_equal(found, expected, prefix=""):
    found = whole(found)
    for key, x in expected.items():
        assert torch.equal(found[prefix + key], x), key


def run(folder, *, form, epochs, ckpt_path=None, save="average"):
    strategy = ModelParallelStrategy(
        data_parallel_size=world(),
        tensor_parallel_size=1,
        save_distributed_checkpoint=FORMS[form],
        process_group_backend="gloo",
    )
    module = Sharded()
    callback = Averaging(AVERAGES, every=EVERY, apply="ema_0.9", save=save)
    it = trainer(
        folder,
        callback,
        epochs=epochs,
        strategy=strategy,
        devices=world(),
        use_distributed_sampler=False,
        num_sanity_val_steps=1,
    )
    it.fit(module, loader(), loader(), ckpt_path=ckpt_path, **{key: False for key in SAFELY})
    return it, module, callback.averager


def world():
    return int(os.environ["WORLD_SIZE"])


def saves(folder):
    for form in FORMS:
        it, module, averager = run(folder, form=form, epochs=1)
        model, twin = plain(1)
        assert isinstance(averager.tensors("ema_0.9")["net.0.weight"], DTensor)
        for name in twin.names:
            assert_equal(averager.tensors(name), twin.tensors(name), "net.")
        it.save_checkpoint(folder / form)
        assert_equal(module.net.state_dict(), model.state_dict())
        with CommDebugMode() as seen:
            averager.update()
        assert set(map(str, seen.get_comm_counts())) <= {"c10d.allreduce_"}


def resumes(folder):
    for form in FORMS:
        _, module, averager = run(folder, form=form, epochs=4, ckpt_path=folder / form)
        model, twin = plain(4)
        for name in twin.names:
            assert_equal(averager.tensors(name), twin.tensors(name), "net.")
        assert averager.steps == twin.steps
        assert_equal(module.net.state_dict(), model.state_dict())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    _, job, place = sys.argv
    {"save": saves, "resume": resumes}[job](Path(place))
