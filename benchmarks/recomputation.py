"""What recomputing BatchNorm statistics on a part of the images changes, against all of them.

python benchmarks/recomputation.py --epochs 12
"""

import argparse
from dataclasses import replace

import torch

from polyak.data import load, partition, prepare
from polyak.records.runs import Score
from polyak.study.paper.presets import preset
from polyak.training.loop import Run

IMAGES = (128, 256, 512, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)
    config = preset("demo").rows[0].config
    # Crops, which the demo has none of, make each pass differ.
    data_config = prepare(replace(config.data, crop_padding=1))
    config = replace(config, data=data_config, epochs=epochs, monitors=("holdout_bn",))
    run = Run(config, partition(load(data_config), data_config, holdout=True), device=_CPU)
    found: dict[int | None, list[Score]] = {images: [] for images in (None, *IMAGES)}
    averaged: list[Score] = []
    for epoch in range(1, epochs + 1):
        run.batch = 0
        run._train_epoch(epoch)
        averaged += _averages(run.evaluation.holdout(run.averager))
        for images, scores in found.items():
            run.evaluation.batchnorm_images = images
            (record,) = run.evaluation.monitors(run.averager, epoch)
            scores += _averages(record.scores)
    total = len(run.data.train_given_n)
    print(f"digits, {total} training images, {epochs} epochs, {len(averaged)} pairs")
    print("| images | loss: mean difference / rms | accuracy: rms, points |\n|---|---|---|")
    rows = {f"{images}": found[images] for images in IMAGES} | {"none: as averaged": averaged}
    for name, scores in rows.items():
        loss = torch.tensor([a.loss - b.loss for a, b in zip(scores, found[None], strict=True)])
        right = [100 * (a.accuracy - b.accuracy) for a, b in zip(scores, found[None], strict=True)]
        rms = torch.tensor(right).square().mean().sqrt()
        print(f"| {name} | {loss.mean():+.4f} / {loss.square().mean().sqrt():.4f} | {rms:.2f} |")


def _averages(scores: dict[str, Score]) -> list[Score]:
    return [score for name, score in scores.items() if name != "sgd"]


_CPU = torch.device("cpu")

if __name__ == "__main__":
    main()
