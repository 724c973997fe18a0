"""The averagers whose files the first round wrote: a network, banks, and steps that say what to do.

A step sets every weight to a small multiple of 1/8, so that no number depends on how a machine
trains; only lerp weights that are no powers of two can round otherwise on another processor.
"""

import math
import platform
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyak import EMA, Averager, PowerEMA, Schedule, Uniform, Window
from polyak.averaging import Exponential, HalfLifeRamp, InverseGamma, Ratio

FOLDER = Path(__file__).parents[1] / "fixtures" / "first-round"
AVERAGERS = FOLDER / "averagers"
BEFORE, AFTER = 17, 17
"""Steps before the files were written, and from there to the end."""

NONFINITE_STEP = 6

WARMUPS = ("paper", "torch_ema", "diffusers", "inverse_gamma", "edm2", "yolo")
EXACT = ("half", "eighth", "halves", "latest", "window_3", "window_2_every_6")
"""Averages whose numbers are the same on any machine: lerp weights that are powers of two, and
sums of multiples of 1/8 that are divided once."""

Kinds = list[Any]
BANKS: dict[str, tuple[Kinds, dict[str, Any]]] = {
    "average": (
        [
            EMA(0.5, warmup=None, name="half"),
            EMA(0.875, warmup=None, name="eighth"),
            0.9375,
            *(EMA(0.9, warmup=warmup, name=f"ema_{warmup}") for warmup in WARMUPS),
            EMA(0.97, warmup_counts="steps", name="by_steps"),
            EMA(0.9, warmup=Ratio(first=3, copies=2), name="ratio"),
            EMA(0.9, warmup=InverseGamma(2.0, 0.75, min_decay=0.25, after=2), name="inverse"),
            EMA(0.9, warmup=HalfLifeRamp(0.25), name="ramp"),
            EMA(0.9, warmup=Exponential(8.0), name="exponential"),
            EMA.per_step(0.99),
            EMA.halflife(epochs=2, steps_per_epoch=6),
            PowerEMA(sigma_rel=0.1),
            PowerEMA(gamma=3.0),
            Uniform(),
            Uniform(start=6),
            Window(3),
            Window(2, every=6),
            Window(1, name="latest"),
            Schedule(lambda update: 1 / (update.index + 1), name="mean"),
            Schedule(lambda update: 0.5 ** (1 + update.index % 2), name="halves"),
        ],
        {"every": 3},
    ),
    "copy": (
        [EMA(0.5, warmup=None, name="half"), 0.9, PowerEMA(sigma_rel=0.15), Uniform(), Window(3)],
        {"every": 2, "buffers": "copy"},
    ),
    "bfloat16": (
        [EMA(0.5, warmup=None, name="half"), 0.99, Uniform()],
        {"dtype": torch.bfloat16},
    ),
    "plain": ([EMA(0.5, warmup=None, name="half"), 0.9, 0.95, Uniform()], {"every": 2}),
    "pair": ([EMA(0.5, warmup=None, name="half"), 0.9], {"every": 2}),
}


def network() -> nn.Sequential:
    """BatchNorm, an integer buffer, and a bias that is frozen."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[2].bias.requires_grad_(False)
    set_weights(model, 0)
    return model


@torch.no_grad()
def set_weights(model: nn.Module, step: int) -> None:
    """What a training step leaves."""
    for number, (key, x) in enumerate(model.state_dict().items()):
        if not x.is_floating_point():
            x.fill_(step)
        elif not key.endswith("2.bias") or step == 0:
            places = torch.arange(x.numel())
            eighths = (5 * places + 3 * number + 7 * step + places * step % 4) % 33 - 16
            x.copy_((eighths / 8).reshape(x.shape))


def averager_of(bank: str) -> Averager:
    kinds, options = BANKS[bank]
    return Averager(network(), kinds, **options)


def go_on(averager: Averager, steps: range, *, nonfinite: int | None = None) -> None:
    """Set weights and count a step, for each of these numbers."""
    for step in steps:
        set_weights(averager.model, step)
        if step == nonfinite:
            with torch.no_grad():
                averager.model[0].weight[0, 0] = math.nan
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*skip such updates")
            averager.step()


def before(bank: str) -> Averager:
    """The averager as it was when its files were written."""
    averager = averager_of(bank)
    go_on(averager, range(1, BEFORE + 1), nonfinite=NONFINITE_STEP if bank == "copy" else None)
    if bank == "copy":
        batch = torch.arange(16.0).reshape(8, 2) / 4 % 3
        averager.refresh_batchnorm([batch], ["uniform", "ema_0.9"])
    return averager


def numbers(averager: Averager) -> dict[str, Any]:
    """What an averager says of itself in numbers."""
    found: dict[str, Any] = {
        name: getattr(averager, name) for name in ("steps", "updates", "skipped", "every")
    }
    found["names"] = list(averager.names)
    found["coinciding"] = averager.coinciding()
    return found


def profiles(averager: Averager) -> dict[str, str]:
    """The weights of all updates in each average, in digits that say a float exactly."""
    return {name: " ".join(map(repr, averager.profile(name))) for name in averager.names}


def flat(averager: Averager) -> dict[str, Tensor]:
    """All averages as one state dict."""
    return {
        f"{name}/{key}": x for name in averager.names for key, x in averager.tensors(name).items()
    }


def here() -> list[str]:
    """What decides how a lerp rounds: AVX2 and AVX-512 both multiply and add at once."""
    fused = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return [platform.machine(), "fused" if fused else "not known to be fused"]
