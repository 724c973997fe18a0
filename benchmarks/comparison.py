"""The table of README: what each tool does with the weights that it is given, by running it.

    python benchmarks/comparison.py [--timm path/to/timm/utils/model_ema.py]

Each tool is used as its documentation shows it, with its defaults but for the decay; ema-pytorch's
period of 10 and start after 100 steps are 1 and 0, so that all make as many updates. timm imports
torchvision; its file on averages needs torch alone, and is run by itself.
"""

import argparse
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from ema_pytorch import EMA as EMAPyTorch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch_ema import ExponentialMovingAverage

import polyak

DECAY = 0.9999
Tool = Callable[[nn.Module, float], tuple[Callable[[], object], Callable[[], list[Tensor]]]]
"""A model and a decay to: make an update; the averaged parameters and buffers."""


def ours(model: nn.Module, decay: float):
    averager = polyak.Averager(model, decay)
    return averager.step, lambda: list(averager.tensors().values())


def torch_swa_utils(model: nn.Module, decay: float):
    copy = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return lambda: copy.update_parameters(model), lambda: list(copy.module.state_dict().values())


def ema_pytorch(model: nn.Module, decay: float):
    ema = EMAPyTorch(model, beta=decay, update_after_step=0, update_every=1)
    return ema.update, lambda: list(ema.ema_model.state_dict().values())


def torch_ema(model: nn.Module, decay: float):
    ema = ExponentialMovingAverage(model.parameters(), decay=decay)
    return ema.update, lambda: ema.shadow_params


def diffusers(model: nn.Module, decay: float):
    ema = EMAModel(model.parameters(), decay=decay)
    return lambda: ema.step(model.parameters()), lambda: ema.shadow_params


def lightning(model: nn.Module, decay: float):
    callback = EMAWeightAveraging(decay=decay)
    copy = AveragedModel(model, use_buffers=callback._use_buffers, **callback._kwargs)
    return lambda: copy.update_parameters(model), lambda: list(copy.module.state_dict().values())


def timm_from(path: Path) -> Tool:
    spec = importlib.util.spec_from_file_location("model_ema", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]

    def timm(model: nn.Module, decay: float):
        ema = module.ModelEmaV3(model, decay=decay)
        return lambda: ema.update(model), lambda: list(ema.module.state_dict().values())

    return timm


class Tied(nn.Module):
    """One weight under two names, as embeddings and output layers are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.b.weight = self.a.weight


def moved(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by)


def first_weights(tool: Tool) -> str:
    """Share of the weights that training began with, after 1,000 steps."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    update, average = tool(model, DECAY)
    update()
    nn.init.zeros_(model.weight)
    for _ in range(999):
        update()
    return f"{100 * average()[0].item():.2g} %"


def one_nan(tool: Tool) -> str:
    """Whether the average is finite after a step to NaN and 10 steps back."""
    model = nn.Linear(1, 1, bias=False)
    update, average = tool(model, DECAY)
    update()
    for value in (float("nan"), *[1.0] * 10):
        nn.init.constant_(model.weight, value)
        update()
    return "kept out" if average()[0].isfinite().all() else "average is lost"


def tied(tool: Tool) -> str:
    """How far two updates go with a weight of two names, in the updates of one with one name."""
    ends = []
    for kind in (Tied, lambda: nn.Linear(1, 1, bias=False)):
        model = kind()
        nn.init.zeros_(next(model.parameters()))
        update, average = tool(model, 0.5)
        update()
        nn.init.ones_(next(model.parameters()))
        update()
        ends.append(average()[0].item())
    return "once" if ends[0] == ends[1] else f"twice ({ends[0]:.2f} for {ends[1]:.2f})"


def half_precision(tool: Tool) -> str:
    """How much of a move of bfloat16 weights by 0.25 their average follows in 5,000 updates."""
    model = nn.Linear(64, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    update, average = tool(model, 0.999)
    for _ in range(10_000):  # until warm-ups are over
        update()
    nn.init.constant_(model.weight, 1.25)
    for _ in range(5_000):
        update()
    return f"{400 * (average()[0].float().mean().item() - 1):.0f} %, 99 % would be right"


def statistics(tool: Tool) -> str:
    """What becomes of BatchNorm's counter of batches and of its statistics."""
    model = nn.BatchNorm1d(1)
    update, average = tool(model, 0.5)
    update()
    model.running_mean.fill_(8.0)
    model.num_batches_tracked.fill_(9)
    update()
    values = [x.item() for x in average()]
    counter = "right" if 9 in values[2:] else "not kept" if len(values) < 3 else "wrong"
    return f"counter {counter}, statistics {values[2] if len(values) > 2 else 'not kept'}"


CHECKS = (first_weights, one_nan, tied, half_precision, statistics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm", type=Path)
    timm = parser.parse_args().timm
    tools = [ours, torch_swa_utils, lightning, ema_pytorch, torch_ema, diffusers]
    tools += [timm_from(timm)] if timm else []
    warnings.simplefilter("ignore")
    for check in CHECKS:
        print(f"\n{check.__doc__}")
        for tool in tools:
            try:
                said = check(tool)
            except Exception as error:
                said = f"{type(error).__name__}: {str(error)[:80]}"
            print(f"  {tool.__name__:16} {said}")


if __name__ == "__main__":
    main()
