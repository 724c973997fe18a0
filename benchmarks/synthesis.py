"""Averages decided on afterwards against the same ones kept in the run: weights, accuracy, loss.

python benchmarks/synthesis.py
python benchmarks/synthesis.py --source path/to/cifar10 --model resnet20 --epochs 16 --images 5000
python benchmarks/synthesis.py --expected     # of the paper's run, without training
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

import polyak
from polyak import EMA, PowerEMA, Uniform
from polyak.averaging import profile
from polyak.averaging.files.mixtures.stored import STRIDE
from polyak.averaging.nearest import nearest_mixture
from polyak.data import DataConfig, load, partition, prepare
from polyak.models import ModelConfig
from polyak.study.fitting import PAPER_UPDATES, scaled_decays, updates
from polyak.training.config import PAPER_DECAYS, AveragingConfig, RunConfig
from polyak.training.loop import Run
from polyak.training.optim import OptimConfig, learning_rate
from polyak.training.prediction import predict, score

BATCH, EVERY = 64, 4
ROUNDING = torch.finfo(torch.float32).eps / 2 / STRIDE
State = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="digits")
    parser.add_argument("--images", type=int, default=1_400)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--expected", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.expected:
        for cells in expected():
            print(f"| {' | '.join(cells)} |")
        return
    run = built(given)
    total = given.epochs * run.steps_per_epoch
    decays = [EMA(d) for d in run.config.averaging.decays]
    banks = {
        "five EMAs": decays,
        "two EMAs": [decays[0], decays[3]],
        "two power averages": [PowerEMA(sigma_rel=0.05), PowerEMA(sigma_rel=0.1)],
    }
    between = [EMA(round((a.decay * b.decay) ** 0.5, 4)) for a, b in pairwise(decays)]
    wanted = [*between[1:], PowerEMA(sigma_rel=0.15), Uniform(start=total // 4)]
    live = polyak.Averager(run.model, wanted, every=EVERY)
    by_name = {kind.label: kind for kind in wanted}
    kept = {name: polyak.Averager(run.model, bank, every=EVERY) for name, bank in banks.items()}
    run.banks = (live, *kept.values())
    with tempfile.TemporaryDirectory() as folder:
        truth, files = trained(run, live, kept, Path(folder), epochs=given.epochs)
        sizes = sum(path.stat().st_size for path in files["five EMAs"]) / 2**20
        print(
            f"{given.source}, {given.model}, {run.step} steps, updates every {EVERY}; each bank "
            f"saved {len(files['five EMAs'])} times (five EMAs: {sizes:.0f} MiB)\n"
        )
        print("| kept | moment | average | expected error | error | accuracy, points | loss |")
        print("|---|---|---|---|---|---|---|")
        found = []
        for cells, numbers in compared(run, by_name, truth, files):
            print(f"| {' | '.join(cells)} |", flush=True)
            found.append(numbers)
    print("\n| expected error | comparisons | accuracy, points: mean, largest | loss | error |")
    print("|---|---|---|---|---|")
    for low, high in ((0, 0.01), (0.01, 0.05), (0.05, 0.2), (0.2, float("inf"))):
        if chosen := [n for n in found if low < n[0] <= high]:
            upper = f"to {high:.0%}" if high < 1 else "and more"
            print(f"| {low:.0%} {upper} | {' | '.join(summary(chosen))} |")


def expected() -> Iterator[tuple[str, ...]]:
    """Errors to be expected in the paper's run, at a file's moment and halfway to the next."""
    wanted = [EMA(d) for d in (0.95, 0.98, 0.99, 0.995, 0.998)] + [PowerEMA(sigma_rel=0.1)]
    schemes = {
        "the paper's five EMAs": [EMA(d) for d in PAPER_DECAYS],
        "EMA 0.968 and 0.996": [EMA(0.968), EMA(0.996)],
        "power averages 0.05 and 0.1": [PowerEMA(sigma_rel=0.05), PowerEMA(sigma_rel=0.1)],
        "the weights themselves": [EMA(0.0)],
    }
    yield "kept", "files", *(kind.label for kind in wanted)
    yield ("---",) * (2 + len(wanted))
    for words, kinds in schemes.items():
        for files in (40, 200):
            spacing = PAPER_UPDATES // files
            saved = range(spacing, PAPER_UPDATES + 1, spacing)
            stored = [profile(kind, updates=n, every=16) for kind in kinds for n in saved]
            moments = spacing * (files // 2), spacing * (files // 2) + spacing // 2
            errors = [
                [
                    nearest_mixture(
                        profile(kind, updates=n, every=16), stored, rounding=ROUNDING
                    ).error
                    for n in moments
                ]
                for kind in wanted
            ]
            yield words, f"{files}", *(" / ".join(f"{e:.1%}" for e in each) for each in errors)


def built(given: argparse.Namespace) -> Run:
    """A run on 80 % of so many images, its decays fitted to its length."""
    data = prepare(DataConfig(source=given.source, train_limit=given.images))
    length = updates(given.images * 4 // 5, batch_size=BATCH, epochs=given.epochs, every=EVERY)
    config = RunConfig(
        data=data,
        model=ModelConfig(name=given.model, width=16),
        optim=OptimConfig(lr=0.2, warmup_epochs=2),
        averaging=AveragingConfig(decays=scaled_decays(length), every=EVERY),
        epochs=given.epochs,
        batch_size=BATCH,
    )
    # The same crops for all recomputations.
    config = replace(config, batchnorm_images=2_000)
    return Run(config, partition(load(data), data, holdout=True), device=torch.device("cpu"))


def trained(
    run: Run,
    live: polyak.Averager,
    kept: dict[str, polyak.Averager],
    folder: Path,
    *,
    epochs: int,
) -> tuple[dict[int, dict[str, State]], dict[str, list[Path]]]:
    """What the live averages are at four moments, two of them between files; and the files."""
    files: dict[str, list[Path]] = {name: [] for name in kept}
    truth: dict[int, dict[str, State]] = {}
    for epoch in range(1, epochs + 1):
        run.train_only(epoch)
        if epoch % 2 == 0:
            for name, averager in kept.items():
                files[name].append(folder / f"{name}-{epoch}.safetensors")
                polyak.save(averager, files[name][-1])
        if epoch in (epochs // 2 - 1, epochs // 2, epochs - 1, epochs):
            states = {name: live.tensors(name) for name in live.names}
            truth[run.step] = {**states, "sgd": copy.deepcopy(run.model.state_dict())}
    return truth, files


def compared(
    run: Run,
    wanted: dict[str, polyak.averaging.Average],
    truth: dict[int, dict[str, State]],
    files: dict[str, list[Path]],
) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Synthesised against live, line by line: as a table shows it, and as numbers."""
    # What moves the weights between two updates is taken to be as large as the learning rate.
    length = {"steps_per_epoch": run.steps_per_epoch, "epochs": run.config.epochs}
    rates = [
        learning_rate(step - 1, run.config.optim, **length)
        for step in range(EVERY, run.step + 1, EVERY)
    ]
    stored = {polyak.load(path).manifest["steps"] for path in files["five EMAs"]}
    learnt = [name for name, _ in run.model.named_parameters()]
    for steps, states in truth.items():
        moment = f"step {steps}{'' if steps in stored else ', between files'}"
        own = states.pop("sgd")
        for label, state in states.items():
            accuracy, loss = evaluated(run, state)
            for name, paths in files.items():
                found = polyak.synthesize(
                    paths, wanted[label], steps=steps, rates=rates, largest_error=float("inf")
                )
                missed, reach = (distance(x, state, learnt) for x in (found[label], own))
                theirs = evaluated(run, found[label])
                numbers = (
                    found.manifest["synthesis"]["error"],
                    missed / reach,
                    100 * (theirs[0] - accuracy),
                    theirs[1] - loss,
                )
                words = "{:.1%} {:.1%} {:+.2f} {:+.4f}".format(*numbers).split()
                yield (name, moment, label, *words), numbers


def summary(lines: list[tuple[float, ...]]) -> tuple[str, ...]:
    """What expected errors of one size do: differences, and measured over expected."""
    accuracies, losses = ([abs(line[n]) for line in lines] for n in (2, 3))
    ratios = [line[1] / line[0] for line in lines]
    return (
        str(len(lines)),
        f"{mean(accuracies):.2f}, {max(accuracies):.2f}",
        f"{mean(losses):.4f}, {max(losses):.4f}",
        f"{min(ratios):.2f} to {max(ratios):.2f} of the expected",
    )


def distance(x: State, y: State, names: list[str]) -> float:
    return sum(float((x[n].double() - y[n].double()).square().sum()) for n in names) ** 0.5


def evaluated(run: Run, state: State) -> tuple[float, float]:
    """Accuracy and loss on the hold-out with recomputed statistics."""
    model = copy.deepcopy(run.model)
    model.load_state_dict(state)
    polyak.refresh_batchnorm(model, run.evaluation.batchnorm_batches())
    data = run.data
    logits_nk = predict(model.eval(), run.images.normalise(data.holdout_images_nchw))
    found = score(logits_nk, data.holdout_given_n)
    return found.accuracy, found.loss


if __name__ == "__main__":
    main()
