"""How near an epoch on a GPU is to the card's own limits: arithmetic and memory."""

import time

import timing
import torch
from study_epochs import Setting
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TRAINING_BYTES, EVALUATION_BYTES, STATISTICS_BYTES = 20, 4, 6
"""Moved for each output value of a convolution in bfloat16, where normalisation, activation and
addition are one kernel: the least that such code does."""


def print_share(setting: Setting, seconds: dict[str, list[float]]) -> None:
    """The floor of each piece of an epoch, and what share of its time it is."""
    rate, bandwidth = _arithmetic(), _bandwidth()
    flops, values = _work(setting)
    holdout = setting.images - setting.training
    floors = {
        "train": setting.training * (3 * flops / rate + TRAINING_BYTES * values / bandwidth),
        "evaluate": 6 * holdout * (flops / rate + EVALUATION_BYTES * values / bandwidth),
        "full": 5 * setting.training * (flops / rate + STATISTICS_BYTES * values / bandwidth)
        + 5 * holdout * (flops / rate + EVALUATION_BYTES * values / bandwidth),
    }
    print(f"\nthe card: {rate / 1e12:.0f} TFLOP/s in bfloat16, {bandwidth / 1e12:.2f} TB/s")
    print("| piece | floor, s | ours, s | share |\n|---|---|---|---|")
    for piece, floor in floors.items():
        if piece in seconds:
            ours = timing.median(seconds[piece])
            print(f"| {piece} | {floor:.3f} | {ours:.3f} | {floor / ours:.0%} |")


def _work(setting: Setting) -> tuple[float, float]:
    """FLOPs of one image's forward pass, and output values of its convolutions."""
    model = setting.network().eval()
    values = 0

    def count(_layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal values
        values += output.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, setting.size, setting.size))
    return float(counter.get_total_flops()), float(values)


def _arithmetic() -> float:
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / _best(lambda: a @ a)


def _bandwidth() -> float:
    a = torch.zeros(2**28, device="cuda")
    b = torch.zeros_like(a)
    return 2 * a.numel() * a.element_size() / _best(lambda: b.copy_(a))


def _best(call: object) -> float:
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
