"""Which way of taking a step is fastest here: a short trial on this model and this card.

A run tries once, writes the choice into its checkpoints and goes on with it, since another way
rounds differently.
"""

import time
import warnings
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from polyak.training.config import Precision
from polyak.training.steps import BACKENDS, Backend, Step, build_step

TRIAL_STEPS = 30


def choose_backend(
    model: nn.Module,
    build_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    batch: tuple[Tensor, Tensor],
    *,
    precision: Precision,
) -> Backend:
    """The backend with the shortest step; "eager" without a trial where there is no GPU.

    Args:
        model: It is not changed: each trial trains a copy of it.
        build_optimizer: Makes the optimizer of a copy.
        batch: Images and labels of a whole batch, on the device.
        precision: As in `build_step`.
    """
    device = batch[0].device
    if device.type != "cuda":
        return "eager"
    random = torch.cuda.get_rng_state(device)
    seconds: dict[Backend, float] = {}
    for backend in BACKENDS:
        copy = deepcopy(model).train()
        try:
            optimizer = build_optimizer(copy)
            step = build_step(backend, copy, optimizer, device=device, precision=precision)
            seconds[backend] = _seconds(step, batch)
        except Exception:
            # torch.compile needs compilers that may be missing, and may fail on a user's network.
            if backend == "eager":
                raise
    torch.cuda.set_rng_state(random, device)
    return min(seconds, key=lambda backend: seconds[backend])


def settle_kernels(device: torch.device, precision: Precision) -> None:
    """Have cuDNN take kernels by rule and not by trial, and only those that repeat themselves.

    Otherwise a run that was stopped would not go on with the same bits. With "float32" that is
    not rounded to TF32 either.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        with warnings.catch_warnings():
            # Some versions announce here another setting, which other versions do not have.
            warnings.filterwarnings("ignore", message=".*new API settings")
            torch.backends.cudnn.allow_tf32 = precision == "bfloat16"


def _seconds(step: Step, batch: tuple[Tensor, Tensor]) -> float:
    for _ in range(2):
        step(*batch)
    torch.cuda.synchronize(batch[0].device)
    started = time.perf_counter()
    for _ in range(TRIAL_STEPS):
        step(*batch)
    torch.cuda.synchronize(batch[0].device)
    return time.perf_counter() - started
