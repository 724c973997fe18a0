"""A run's curves under the names that every logger uses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyak.records.runs import EpochRecord, MonitorRecord, RunFolder, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What a run has recorded so far."""

    run: str
    """Id."""

    name: str
    """The run in a few words."""

    config: Mapping[str, Any]
    """Its settings, as JSON values."""

    epochs: Mapping[int, Mapping[str, float]]
    """Epoch, from 1 → name of a curve → value."""


def read_curves(folder: RunFolder, *, name: str) -> Curves:
    """The curves of a run from its files, as far as whole epochs are there.

    An epoch whose monitors are yet to be written waits for them.

    Raises:
        FileError: if a file of the run is damaged.
    """
    config, monitors = folder.config(), folder.monitors()
    by_epoch: dict[int, list[MonitorRecord]] = {}
    for monitor in monitors:
        by_epoch.setdefault(monitor.epoch, []).append(monitor)
    expected = len(config.get("monitors") or ())
    epochs = {
        record.epoch: scalars(record, by_epoch.get(record.epoch, ()))
        for record in folder.epochs()
        if len(by_epoch.get(record.epoch, ())) >= expected
    }
    return Curves(run=folder.path.name, name=name, config=config, epochs=epochs)


def scalars(record: EpochRecord, monitors: Sequence[MonitorRecord] = ()) -> dict[str, float]:
    """An epoch's values by name; losses in nats, accuracies as fractions.

    step, seconds, learning_rate
    train/loss, train/accuracy            running mean of the epoch, augmented
    holdout/<weights>/…                   "sgd" and every average
    holdout_bn/<weights>/…                with recomputed BatchNorm statistics
    monitor/<monitor>/<weights>/…         for figures only
    """
    found = {
        "step": float(record.step),
        "seconds": record.seconds,
        "learning_rate": record.learning_rate,
    }
    parts: dict[str, Mapping[str, Score]] = {
        "train": {"": record.train},
        "holdout": record.holdout,
        "holdout_bn": record.holdout_bn,
        **{f"monitor/{monitor.monitor}": monitor.scores for monitor in monitors},
    }
    for part, scores in parts.items():
        found |= dict(_named(part, scores))
    return found


def _named(part: str, scores: Mapping[str, Score]) -> Iterator[tuple[str, float]]:
    for weights, score in scores.items():
        prefix = f"{part}/{weights}" if weights else part
        yield f"{prefix}/loss", score.loss
        yield f"{prefix}/accuracy", score.accuracy
