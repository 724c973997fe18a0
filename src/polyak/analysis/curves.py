"""From the logs of runs to learning curves over seeds, and what they say about the bank."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from polyak.analysis.loaded import RunLog
from polyak.analysis.seeds import mean_interval
from polyak.errors import ConfigError
from polyak.records.runs import EpochRecord, Score
from polyak.records.vocabulary import BASELINE


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A mean over seeds at one epoch."""

    part: str
    """"holdout", or a monitor's name, or "train" for the running mean in training."""

    weights: str
    """"sgd", an average's name, or "best average": the maximum over the bank at this epoch."""

    metric: str
    """"accuracy" or "loss"."""

    epoch: int
    mean: float
    low: float | None
    """Ends of the 95 % interval over seeds; None for a single seed."""

    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Coincidence:
    """Two averages that give the same scores in the first epochs of a run, or in all of them."""

    first: str
    second: str
    epochs: int
    """Epochs from the first on in which every score is equal."""

    whole_run: bool


def learning_curves(logs: Iterable[RunLog]) -> list[CurvePoint]:
    """Curves of all parts and weights over the runs of one configuration, one run a seed."""
    return _curves(logs, _with_best)


def learning_leads(logs: Iterable[RunLog]) -> list[CurvePoint]:
    """Curves of each average minus SGD, paired by seed: means and intervals of the differences."""
    return _curves(logs, _minus_baseline)


def _curves(
    logs: Iterable[RunLog], curves_of: Callable[[Mapping[str, Score]], Iterable[tuple[str, Score]]]
) -> list[CurvePoint]:
    found: dict[tuple[str, str, str, int], list[float]] = {}
    for log in logs:
        for part, epoch, scores in _scores(log):
            for weights, score in curves_of(scores):
                for metric, value in (("accuracy", score.accuracy), ("loss", score.loss)):
                    found.setdefault((part, weights, metric, epoch), []).append(value)
    return [
        _point(part, weights, metric, epoch, values)
        for (part, weights, metric, epoch), values in found.items()
    ]


def learning_rates(log: RunLog) -> list[tuple[int, float]]:
    """Learning rate at the end of each epoch."""
    return [(r.epoch, r.learning_rate) for r in log.epochs]


def coincidences(records: Sequence[EpochRecord], averages: Sequence[str]) -> list[Coincidence]:
    """Averages that cannot be told apart by their hold-out scores, from the first epoch on."""
    return coinciding([record.holdout for record in records], averages)


def coinciding(scores: Sequence[Mapping[str, Score]], averages: Sequence[str]) -> list[Coincidence]:
    """Averages whose scores are equal from the first epoch on, whatever they are scores of.

    Args:
        scores: One mapping an epoch, from weights to score; an empty one ends the comparison.
        averages: The names to compare, each with each.
    """
    found = []
    for first, second in combinations(averages, 2):
        equal = 0
        for by_weights in scores:
            if first not in by_weights or by_weights[first] != by_weights.get(second):
                break
            equal += 1
        if equal:
            found.append(Coincidence(first, second, equal, equal == len(scores)))
    return found


def sliding_mean(values: Sequence[float], *, width: int) -> list[float]:
    """Centred mean over `width` neighbours, narrower at the ends.

    Raises:
        ConfigError: unless `width` is odd: an even one has no centre.

    Example:
        >>> sliding_mean([0.0, 3.0, 6.0], width=3)
        [1.5, 3.0, 4.5]
    """
    if width < 1 or width % 2 == 0:
        raise ConfigError(f"width is {width!r}; expected an odd number >= 1. 1 smooths nothing.")
    half = width // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def window_means(values: Sequence[float], *, width: int) -> list[float]:
    """Means over each `width` neighbours, none narrower; over all values where there are fewer.

    Example:
        >>> window_means([0.0, 3.0, 6.0, 0.0], width=3)
        [3.0, 3.0]
    """
    if width < 1:
        raise ConfigError(f"width is {width!r}; expected >= 1. 1 smooths nothing.")
    full = min(width, len(values))
    windows = (values[i : i + full] for i in range(len(values) - full + 1)) if values else ()
    return [sum(window) / full for window in windows]


def _scores(log: RunLog) -> Iterator[tuple[str, int, Mapping[str, Score]]]:
    for record in log.epochs:
        yield "train", record.epoch, {BASELINE: record.train}
        if record.holdout:
            yield "holdout", record.epoch, record.holdout
    for monitor in log.monitors:
        yield monitor.monitor, monitor.epoch, monitor.scores


def _with_best(scores: Mapping[str, Score]) -> Iterator[tuple[str, Score]]:
    """The scores and, where there are averages, their best: a maximum, to be marked as one."""
    yield from scores.items()
    averages = [score for name, score in scores.items() if name != BASELINE]
    if averages:
        best = Score(
            loss=min(score.loss for score in averages),
            accuracy=max(score.accuracy for score in averages),
        )
        yield "best average", best


def _minus_baseline(scores: Mapping[str, Score]) -> Iterator[tuple[str, Score]]:
    """Differences to SGD, where it was evaluated."""
    sgd = scores.get(BASELINE)
    for name, score in scores.items():
        if sgd is not None and name != BASELINE:
            yield name, Score(loss=score.loss - sgd.loss, accuracy=score.accuracy - sgd.accuracy)


def _point(part: str, weights: str, metric: str, epoch: int, values: list[float]) -> CurvePoint:
    interval = mean_interval(values)
    return CurvePoint(
        part=part,
        weights=weights,
        metric=metric,
        epoch=epoch,
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        n=interval.n,
    )
