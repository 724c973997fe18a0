"""bfloat16 beside float32 on a CPU: what it saves, and what it does to results.

python benchmarks/precision.py                         # time an image of both, in turns
python benchmarks/precision.py --paired --seeds 8      # the same runs in both, seed by seed
python benchmarks/precision.py --paired --data fashion-mnist --model resnet20 --images 4000
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import timing
import torch

from polyak import metrics
from polyak.analysis.seeds import Interval, mean_interval
from polyak.data import DataConfig, prepare
from polyak.models import ModelConfig, build
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.training.config import PRECISIONS, AveragingConfig, OptimConfig, RunConfig
from polyak.training.fused_batchnorm import FusedModel
from polyak.training.jobs import carry_out
from polyak.training.machine import keep_freed_memory
from polyak.training.optim import build_optimizer
from polyak.training.prediction import predict
from polyak.training.selection import choose_stop
from polyak.training.steps import build_step

CPU = torch.device("cpu")
NETWORKS = (("resnet20", 16), ("resnet18", 16), ("resnet18", 32), ("vit", 64))
BATCH, EVALUATED = 128, 512
ARMS = ("sgd", "ema_acc", "ema_acc_bn")


def print_times(rounds: int) -> None:
    """CPU ms an image of 32×32, and the ratio of bfloat16's to float32's round by round."""
    print("| network, width | | float32, ms | bfloat16, ms | ratio: low / median / high |")
    print("|---|---|---|---|---|")
    for name, width in NETWORKS:
        calls = dict(_calls(name, width))
        seconds = timing.interleaved(calls, rounds=rounds, flush=False)
        for what, images in (("training", BATCH), ("evaluation", EVALUATED)):
            full, half = (seconds[f"{what} {precision}"] for precision in PRECISIONS)
            low, middle, high = timing.ratios(half, full)
            times = " | ".join(f"{1e3 * timing.median(x) / images:.2f}" for x in (full, half))
            print(f"| {name}, {width} | {what} | {times} | {low:.2f} / {middle:.2f} / {high:.2f} |")


def _calls(name: str, width: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """A step and an evaluation with BatchNorm fused, in both precisions, by name."""
    draws = torch.Generator().manual_seed(0)
    for precision in PRECISIONS:
        model = build(
            ModelConfig(name=name, width=width),
            classes=10,
            channels=3,
            image_size=32,
            generator_seed=0,
        ).to(memory_format=torch.channels_last)
        images_nchw = torch.randn(EVALUATED, 3, 32, 32, generator=draws)
        images_nchw = images_nchw.contiguous(memory_format=torch.channels_last)
        labels_n = torch.randint(0, 10, (EVALUATED,), generator=draws)
        optimizer = build_optimizer(model, OptimConfig(lr=1e-3))
        step = build_step("eager", model, optimizer, device=CPU, precision=precision)
        fused = FusedModel(model)
        yield (
            f"training {precision}",
            lambda step=step, x=images_nchw, y=labels_n: step(x[:BATCH], y[:BATCH]),
        )
        yield (
            f"evaluation {precision}",
            lambda fused=fused, x=images_nchw, p=precision: predict(fused.load(), x, precision=p),
        )


def print_pairs(config: RunConfig, seeds: int) -> None:
    """What bfloat16 changes of the same runs: differences over seeds with 95 % intervals."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        said = {
            precision: [_carried_out(config, precision, seed, out) for seed in range(seeds)]
            for precision in PRECISIONS
        }
    print("| bfloat16 minus float32 | float32: mean | difference, 95 % interval |")
    print("|---|---|---|")
    for arm in ARMS:
        for what in ("accuracy, %", "loss, nats"):
            _line(f"{arm}, {what}", *([of_run[arm, what] for of_run in x] for x in said.values()))
    _line("epoch chosen by accuracy", *([of_run["stop"] for of_run in x] for x in said.values()))
    for arm in ARMS:
        churns = {precision: _churn(of_runs, arm) for precision, of_runs in said.items()}
        _line(f"churn of {arm} between two seeds, %", *churns.values())
        across = [
            100 * metrics.churn(a["logits"][arm], b["logits"][arm])
            for a, b in zip(*said.values(), strict=True)
        ]
        print(f"| churn of {arm} between the precisions, one seed, % | | {_shown(across)} |")


def _carried_out(config, precision, seed, out) -> dict:
    """Scores of one run's arms on test images."""
    run = replace(config, precision=precision, seed=seed)
    carry_out(run, out)
    folder = run_folder(out, run.id)
    predictions = Predictions(folder.predictions)
    labels_n = predictions.labels_n("test")
    found = {"logits": {}, "stop": _stop(folder, run)}
    for arm in ARMS:
        logits_nk = predictions.logits_nk("test", arm)
        found["logits"][arm] = logits_nk
        found[arm, "accuracy, %"] = 100 * metrics.accuracy(logits_nk, labels_n)
        found[arm, "loss, nats"] = metrics.cross_entropy(logits_nk, labels_n)
    return found


def _stop(folder, run) -> int:
    """The epoch that is chosen by the averages' best accuracy on the hold-out."""
    return choose_stop(folder.epochs(), rule="acc", averages=run.averaging.names).epoch


def _churn(of_runs, arm) -> list[float]:
    """Between neighbours in the ring of seeds, so that no two pairs are the same."""
    return [
        100 * metrics.churn(a["logits"][arm], b["logits"][arm])
        for a, b in zip(of_runs, [*of_runs[1:], of_runs[0]], strict=True)
    ]


def _line(what: str, full: list[float], half: list[float]) -> None:
    differences = [b - a for a, b in zip(full, half, strict=True)]
    print(f"| {what} | {sum(full) / len(full):.3f} | {_shown(differences)} |")


def _shown(values: list[float]) -> str:
    found: Interval = mean_interval(values)
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--paired", action="store_true")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--images", type=int, help="training images to keep")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if not given.paired:
        print_times(given.rounds)
        return
    digits = given.data == "digits"
    data = DataConfig(
        source=given.data,
        train_limit=given.images,
        crop_padding=1 if digits else 2,
        flip=not digits,
    )
    config = RunConfig(
        data=prepare(data),
        model=ModelConfig(name=given.model),
        optim=OptimConfig(lr=0.1, weight_decay=5e-4, warmup_epochs=1),
        averaging=AveragingConfig(decays=(0.745, 0.864, 0.93, 0.964, 0.982), every=2),
        epochs=given.epochs,
        batch_size=32 if digits else 128,
        keep="chosen",
    )
    print_pairs(config, given.seeds)


if __name__ == "__main__":
    main()
