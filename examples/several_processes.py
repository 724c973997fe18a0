"""Averages on several processes, with DistributedDataParallel or with FSDP2.

The averager is built after the model was wrapped or sharded and needs no settings for it. Under
FSDP2 each process averages its shards. The checkpoint holds model and averages; it is read back,
and one file with whole weights is written for serving.

    torchrun --nproc-per-node 2 examples/several_processes.py ddp
    torchrun --nproc-per-node 2 examples/several_processes.py fsdp
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import polyak

STEPS, BATCH = 300, 32


def wrapped(how: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    if how == "ddp":
        return DistributedDataParallel(model)
    for layer in (model[0], model[2]):
        fully_shard(layer)
    return fully_shard(model)


def mean_over_processes(value: torch.Tensor) -> float:
    dist.all_reduce(value)
    return value.item() / dist.get_world_size()


def main(how: str) -> None:
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same network and order everywhere
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    mine = torch.arange(rank, 1200, world)

    model = wrapped(how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    averager = polyak.Averager(model, 0.98)
    averager.attach(optimizer)
    torch.manual_seed(1 + rank)  # batches differ
    for _ in range(STEPS):
        batch = mine[torch.randint(len(mine), (BATCH,))]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()

    test = torch.arange(1200 + rank, 1797, world)[:298]
    with torch.no_grad(), averager.applied():  # on every process
        right = (model(x[test]).argmax(1) == y[test]).float().mean()
    accuracy = mean_over_processes(right)

    folders = [tempfile.mkdtemp() if rank == 0 else ""]
    dist.broadcast_object_list(folders)
    folder = Path(folders[0])
    dcp.save({"model": model, "averager": averager}, checkpoint_id=folder / "checkpoint")
    again = polyak.Averager(model, 0.98)
    dcp.load({"averager": again}, checkpoint_id=folder / "checkpoint")
    assert again.steps == averager.steps == STEPS

    weights = polyak.gathered(averager)  # a collective; rank 0 gets whole tensors
    if rank == 0:
        polyak.save(weights, folder / "averages.safetensors")
        print(f"{how} on {world} processes: the average is right on {100 * accuracy:.1f} %")
        print(f"checkpoint, and one file for serving: {folder}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "ddp")
