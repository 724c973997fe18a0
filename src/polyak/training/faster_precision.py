"""`precision auto`: which precision steps are faster in on this machine, tried before a run.

The choice becomes a setting of the run, since results depend on it, and a run that was begun with
either goes on with it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from polyak.data import Partition
from polyak.records.runs import run_folder
from polyak.training.config import PRECISIONS, Precision, RunConfig
from polyak.training.loop import Run
from polyak.training.steps import build_step

ROUNDS = 5
"""Steps of each precision that count; one more goes before them."""

ENOUGH = 0.9
"""Share of float32's time that bfloat16 must stay below to be worth other numbers."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A run whose precision is settled, and why in words."""

    config: RunConfig
    reason: str = ""


def settled(config: RunConfig, data: Partition, out: Path, *, device: torch.device) -> Choice:
    """The run with float32 or bfloat16 in the place of `auto`; any other run as it is.

    Args:
        config: The run, of which all else is settled.
        data: What it trains on.
        out: Where it may have been begun.
        device: Where it computes.
    """
    if config.precision != "auto":
        return Choice(config)
    candidates = {name: replace(config, precision=name) for name in PRECISIONS}
    for begun, candidate in candidates.items():
        if run_folder(out, candidate.id).path.exists():
            return Choice(candidate, f"precision auto: {begun}, as the run was begun")
    share = _share(candidates, data, device)
    faster: Precision = "bfloat16" if share < ENOUGH else "float32"
    said = f"a step in bfloat16 takes {share:.2f} of one in float32"
    return Choice(candidates[faster], f"precision auto: {faster}, since {said}")


def _share(candidates: dict[Precision, RunConfig], data: Partition, device: torch.device) -> float:
    """The median over rounds of bfloat16's time by float32's, taken in turns."""
    steps = {name: _step(config, data, device) for name, config in candidates.items()}
    rounds = [
        {name: _seconds(step, device) for name, step in steps.items()} for _ in range(ROUNDS + 1)
    ]
    return median(taken["bfloat16"] / taken["float32"] for taken in rounds[1:])


def _step(config: RunConfig, data: Partition, device: torch.device) -> Callable[[], object]:
    """A step of a run of its own, on its first batch."""
    run = Run(config, data, device=device)
    [batch] = islice(run.images.batches(config.batch_size, order=run.order, draws=run.draws), 1)
    step = build_step(
        "eager", run.model.train(), run.optimizer, device=device, precision=run.precision
    )
    return partial(step, *batch)


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
