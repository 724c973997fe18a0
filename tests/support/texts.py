"""Small texts in files, and runs on them that take moments."""

import random
from pathlib import Path
from typing import Any

from polyak.data import DataConfig, prepare
from polyak.models import ModelConfig
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

WORDS = ("the", "mean", "of", "weights", "along", "a", "run", "is", "one", "more", "model")


def write_texts(folder: Path, files: int = 24, *, words: int = 40, seed: int = 0) -> Path:
    """Files of a few words again and again, of different lengths."""
    draws = random.Random(seed)
    for number in range(files):
        path = folder / f"part {number % 3}" / f"{number:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = " ".join(draws.choice(WORDS) for _ in range(draws.randint(words // 2, words)))
        path.write_text(text)
    return folder


def text_run(folder: Path, **changes: Any) -> RunConfig:
    """Steps of eight windows of 16 bytes, the last of an epoch short."""
    data = DataConfig(source=f"text:{folder}", context=16, train_limit=90, test_limit=12)
    options: dict[str, Any] = {
        "data": prepare(data),
        "model": ModelConfig(name="gpt", width=32, depth=1),
        "optim": OptimConfig(
            name="adamw", lr=3e-3, warmup_epochs=1, clip=0.5, schedule="wsd", decay_share=0.5
        ),
        "averaging": AveragingConfig(decays=(0.2, 0.9), every=2),
        "epochs": 3,
        "batch_size": 16,
    }
    return RunConfig(**options | changes)
