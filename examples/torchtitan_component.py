"""Averages as a component of a loop in the manner of torchtitan: built with the rest, saved by DCP.

Such loops hand one dict of components with `state_dict` and `load_state_dict` to
torch.distributed.checkpoint. `Averages` is one. It keeps an averager for each part of the model
(pipeline stages have several), follows the optimizers, and sends nothing but one vote at an update.
Run it on two processes, then go on from its checkpoint on one:

    torchrun --nproc-per-node 2 examples/torchtitan_component.py checkpoints 100
    torchrun --nproc-per-node 1 examples/torchtitan_component.py checkpoints 200
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict as optimizer_state
from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard

import polyak


class Averages:
    """The component: build it after parallelism was applied and before a checkpoint is loaded."""

    def __init__(
        self, parts: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], decay: float
    ) -> None:
        self.averagers = [polyak.Averager(part, decay) for part in parts]
        for averager, optimizer in zip(self.averagers, optimizers, strict=True):
            averager.attach(optimizer)

    def state_dict(self) -> dict[str, Any]:
        return {str(i): averager.state_dict() for i, averager in enumerate(self.averagers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, averager in enumerate(self.averagers):
            averager.load_state_dict(state[str(i)])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """For the validator: the parts hold their averages inside, on every process."""
        with ExitStack() as stack:
            for averager in self.averagers:
                stack.enter_context(averager.applied())
            yield


class Optimizer:
    """As torchtitan's container: the optimizer's state by names of parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.optimizer = model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    def state_dict(self) -> dict[str, Any]:
        return optimizer_state(self.model, self.optimizer)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_optimizer_state_dict(self.model, self.optimizer, state)


class TrainState:
    step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])


def main(folder: str, steps: int) -> None:
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    torch.manual_seed(0)
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x = x.float() / 16
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fully_shard(model[0])
    fully_shard(model)
    optimizer, progress = Optimizer(model), TrainState()
    averages = Averages([model], [optimizer.optimizer], 0.98)
    states = {"model": model, "optimizer": optimizer, "ema": averages, "train_state": progress}
    if Path(folder).is_dir():
        dcp.load(states, checkpoint_id=folder)

    while progress.step < steps:
        # The same batch everywhere, of this step: what goes on is what never stopped.
        rows = torch.randint(1200, (32,), generator=torch.Generator().manual_seed(progress.step))
        optimizer.optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.optimizer.step()
        progress.step += 1
    dcp.save(states, checkpoint_id=folder)
    with averages.applied(), torch.no_grad():
        right = (model(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    if dist.get_rank() == 0:
        took = averages.averagers[0].steps
        print(f"after {took} steps on {dist.get_world_size()}: the average is right on {right:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
